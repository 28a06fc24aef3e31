package vault

import (
	"regexp"
	"strings"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// ofPath says whether an id is that of a lease of the path: Vault makes it of the path, a slash and one word (Register in
// vault/expiration.go; a namespace's is part of the word). What lies deeper is another path's lease, and what has dots or
// empty segments in it some server on the way may take for another path altogether.
func ofPath(path, id string) bool {
	word, below := strings.CutPrefix(id, path+"/")
	return below && isPath(path) && plainPath.MatchString(word) && !strings.Contains(word, "/") && !badSegment.MatchString(word)
}

var (
	plainPath  = regexp.MustCompile(`^[A-Za-z0-9_.@:~+=,/-]{1,512}$`)
	badSegment = regexp.MustCompile(`(^|/)(\.{0,2})(/|$)`)
	noEngine   = regexp.MustCompile(`^(sys|auth)(/|$)`)
)

// isPath says whether spec.vault.path may be so. The API server does not look at a record's, which somebody may have
// written into a status. Below auth/ the leases are logins.
func isPath(path string) bool {
	return plainPath.MatchString(path) && !badSegment.MatchString(path) && !noEngine.MatchString(path)
}

// foreign is for a record that names what is not its own, and so is left alone.
func foreign(path string) *backend.Error {
	return backend.Errorf(backend.Mismatch, "the record's lease is not one of its path %q: it is left alone", cut(oneLine(path), 128))
}
