package vault

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// ofPath says whether an id is that of a lease of the path: Vault makes it of the path, a slash and one word (Register in
// vault/expiration.go; a namespace's is part of the word). What lies deeper is another path's lease, and what has dots or
// empty segments in it some server on the way may take for another path altogether.
func ofPath(path, id string) bool {
	word, below := strings.CutPrefix(id, path+"/")
	return below && isPath(path) && isSegment(word) && !strings.Contains(word, "/")
}

// isPath says whether a path can be one of a secrets engine. The API server looks at that of a spec; that of a record may
// have been written by somebody else. Below auth/ the leases are logins.
func isPath(path string) bool {
	segments := strings.Split(path, "/")
	return segments[0] != "auth" && segments[0] != "sys" && !slices.ContainsFunc(segments, func(s string) bool { return !isSegment(s) })
}

// isSegment: JSON would make another of one that is no UTF-8.
func isSegment(s string) bool { return s != "" && s != "." && s != ".." && utf8.ValidString(s) }

func foreignLease(path string) *lease.Error {
	return lease.Errorf(lease.Mismatch, "the record's lease is not one of its path %q: it is left alone", path)
}
