package vault

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestEveryKnownTextHasAnOrigin(t *testing.T) {
	seen := map[string]bool{}
	for _, known := range knownTexts {
		key := fmt.Sprint(known.means, known.text)
		switch {
		case known.text == "" || known.origin == "" || known.servers == 0:
			t.Errorf("%q is incomplete: %+v", known.text, known)
		case seen[key]:
			t.Errorf("%q is there twice with the same meaning", known.text)
		case known.matching == part && known.means != plainHTTP && known.text != strings.ToLower(known.text) &&
			known.servers == library:
			t.Errorf("%q is not in lower case, which is how parts of libraries' texts are compared", known.text)
		case known.matching == part && slices.Contains([]meaning{leaseGone, tokenGone, notHandled}, known.means):
			t.Errorf("%q proves something, so an engine must not be able to quote it", known.text)
		}
		seen[key] = true
	}
}

// A standby, a leader that is lost, and a cluster without a leader are outages for every request, whatever the status
// is: none is a refusal, and none ends a lease.
func TestTextsOfStandbysAreOutages(t *testing.T) {
	requests := map[string]struct {
		path string
		send func(*testing.T, *fixture) error
		// issues: what counts is whether the credential may exist.
		issues bool
	}{
		"login": {"auth/kubernetes/login", func(t *testing.T, f *fixture) error {
			_, err := f.Login(t.Context(), who)
			return err
		}, false},
		"issuance": {readPath, func(t *testing.T, f *fixture) error {
			_, err := f.Issue(t.Context(), at, read)
			return err
		}, true},
		"renewal": {"sys/leases/renew", func(t *testing.T, f *fixture) error {
			_, err := f.Renew(t.Context(), record(), 1)
			return err
		}, false},
		"extension": {"auth/token/renew-accessor", func(t *testing.T, f *fixture) error {
			_, err := f.ExtendSession(t.Context(), record(), owner)
			return err
		}, false},
		"look-up": {"sys/leases/lookup", func(t *testing.T, f *fixture) error {
			return f.Lookup(t.Context(), record())
		}, false},
		"revocation": {"auth/token/lookup-accessor", func(t *testing.T, f *fixture) error {
			return f.Revoke(t.Context(), record(), owner)
		}, false},
		"list": {"sys/leases/lookup/" + readPath, func(t *testing.T, f *fixture) error {
			_, err := f.List(t.Context(), record())
			return err
		}, false},
	}
	for _, known := range knownTexts {
		if known.means != notHandled && known.means != noActiveNode && known.means != lostActive {
			continue
		}
		for _, status := range []int{http.StatusBadRequest, http.StatusInternalServerError, 503} {
			for name, request := range requests {
				if request.issues && known.means == notHandled && status == http.StatusBadRequest {
					continue // that is an engine's own text
				}
				t.Run(fmt.Sprintf("%s %d: %s", name, status, known.text), func(t *testing.T) {
					f := newFixture(t)
					f.server.always("auth/token/lookup-accessor", ok(shopToken))
					f.server.always(request.path, errs(status, known.text))
					want := backend.Unavailable
					if request.issues && known.means != notHandled {
						want = backend.NoResponse
					}
					wantKind(t, request.send(t, f), want)
				})
			}
		}
	}
}

func TestAStandbyWithoutALeaderTripsTheBreaker(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", errs(500, "local node not active but active cluster node not found"))
	for range 2 {
		_, err := f.Renew(t.Context(), record(), 1)
		wantKind(t, err, backend.Unavailable)
		wantText(t, err, "local node not active")
	}
	if n := len(f.server.requests("sys/leases/renew")); n != 1 {
		t.Errorf("%d renewals were sent to a standby without a leader, want 1", n)
	}
	f.clock.SetTime(f.clock.Now().Add(FirstProbe))
	f.server.always("sys/leases/renew", ok(renewed))
	_, err := f.Renew(t.Context(), record(), 1)
	wantKind(t, err, "")
}

// A write that failed because leadership was lost may be an engine's own text if the request is about a lease.
func TestATextAboutALeaseDoesNotTripTheBreaker(t *testing.T) {
	f := newFixture(t)
	f.server.always("sys/leases/renew", errs(400, "failed to renew entry: node is not the leader"))
	for range 2 {
		_, err := f.Renew(t.Context(), record(), 1)
		wantKind(t, err, backend.Unavailable)
	}
	if n := len(f.server.requests("sys/leases/renew")); n != 2 {
		t.Errorf("%d renewals were sent, want 2", n)
	}
}
