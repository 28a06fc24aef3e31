package vault

import (
	"slices"
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestFailedListsNameMissingPermissions(t *testing.T) {
	const path = "sys/leases/lookup/" + readPath
	for name, test := range map[string]struct {
		answer  says
		kind    backend.ErrorKind
		missing []string
	}{
		"refused":           {errs(403, "permission denied"), backend.Denied, []string{path + ": list, sudo"}},
		"an internal error": {errs(500, "internal error"), backend.Failed, nil},
		"sealed":            {errs(503, "Vault is sealed"), backend.Unavailable, nil},
		"another server":    {ok("<html>"), backend.InvalidResponse, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(path, test.answer)
			_, err := f.List(t.Context(), record())
			wantKind(t, err, test.kind)
			if got := backend.MissingFrom(err); !slices.Equal(got, test.missing) {
				t.Errorf("missing %q, want %q", got, test.missing)
			}
			if test.kind == backend.Denied {
				wantText(t, err, `policy of role "keeper" lacks "list" and "sudo" on "`+path+`"`)
			}
		})
	}
}
