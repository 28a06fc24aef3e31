package vault

import (
	"regexp"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// ofPath reports whether the id is that of a lease of the path. Vault builds an id from the path, a slash and one word
// (Register in vault/expiration.go; a namespace is part of the word). A longer id belongs to another path. An id with
// dots or empty segments may become another path on its way to Vault.
func ofPath(path, id string) bool {
	word, below := strings.CutPrefix(id, path+"/")
	oneWord := plainPath.MatchString(word) && !strings.Contains(word, "/") && !badSegment.MatchString(word)
	return below && isPath(path) && oneWord
}

var (
	plainPath  = regexp.MustCompile(`^[A-Za-z0-9_.@:~+=,/-]{1,512}$`)
	badSegment = regexp.MustCompile(`(^|/)(\.{0,2})(/|$)`)
	noEngine   = regexp.MustCompile(`^(sys|auth)(/|$)`)
)

// isPath reports whether spec.vault.path may have this value. The API server does not validate the path of a record,
// which somebody may have written into a status. The leases below auth/ are logins.
func isPath(path string) bool {
	return plainPath.MatchString(path) && !badSegment.MatchString(path) && !noEngine.MatchString(path)
}

// foreign is the error for a record that names something which does not belong to its path.
func foreign(path string) *backend.Error {
	return backend.Errorf(backend.Mismatch,
		"the record's lease does not belong to the record's path %q: nothing is done to it", cut(oneLine(path), 128))
}
