// Package contract tests what every backend.Backend must do. It runs against the real backends and against the fake, so
// that the fake cannot drift.
package contract

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// Shape is what a test requests.
type Shape struct {
	// Kind of the response. Empty: leased.
	Kind v1alpha1.ResponseKind
	// TTL and MaxTTL of a lease, TTL of an expiring response. Real backends count whole seconds, so a TTL is at least
	// two.
	TTL, MaxTTL time.Duration
	// NotRenewable: a lease that cannot be renewed.
	NotRenewable bool
	// NotRevocable: an expiring response that cannot be revoked.
	NotRevocable bool
}

// Subject is a backend with a source of the shape. Nothing else uses the path of the source.
type Subject struct {
	Backend backend.Backend
	// Who may issue it, Owner included. Sessions live for an hour or more.
	Who backend.Identity
	// Stranger owns objects in another namespace.
	Stranger backend.Owner
	Source   v1alpha1.SecretSource
	// Record of the source before anything is issued: the backend's block.
	Record v1alpha1.LeaseRecord
	// Revoke revokes a lease without the Backend.
	Revoke func(t *testing.T, id string)
	// Live counts the leases of the source, or its expiring credentials that are not revoked.
	Live func(t *testing.T) int
	// Change changes the value of a static or scheduled source.
	Change func(t *testing.T)
	// Wait lets time pass for the backend.
	Wait func(t *testing.T, d time.Duration)
}

// Harness makes a subject of the shape, for one test. It skips the test if the backend has no such shape.
type Harness func(t *testing.T, shape Shape) Subject

// slack is what rounding and the network may take from a duration.
const slack = 30 * time.Second

// Run tests the Backend.
func Run(t *testing.T, harness Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"a lease is issued, renewed, looked up and revoked": lifeOfALease,
		"revoking twice is no error":                        revokeTwice,
		"a lease that was revoked elsewhere is gone":        revokedElsewhere,
		"an expired lease is gone":                          expired,
		"a renewal beyond the maximum is capped":            capped,
		"an increment replaces the remaining time":          increment,
		"a session is extended to its maximum":              extend,
		"a session of another namespace is not touched":     mismatch,
		"a record without an id is revoked by its session":  withoutID,
		"two issuances are two leases":                      twoLeases,
		"a lease that cannot be renewed":                    notRenewable,
		"an expiring response is revoked":                   expiring,
		"an expiring response that cannot be revoked":       notRevocable,
		"a static response is read again":                   static,
		"a scheduled response is read again":                scheduled,
		"a read that returns a lease revokes it":            readOfALease,
	} {
		t.Run(name, func(t *testing.T) { test(t, harness) })
	}
}

// issue logs in, issues and makes the record.
func issue(t *testing.T, s Subject, want v1alpha1.ResponseKind) (v1alpha1.LeaseRecord, backend.Response) {
	t.Helper()
	session, err := s.Backend.Login(t.Context(), s.Who)
	noError(t, "login", err)
	if session.Handle == "" || session.Token == "" {
		t.Fatal("the session has no token or no handle")
	}
	response, err := s.Backend.Issue(t.Context(), session, s.Source)
	noError(t, "issuance", err)
	checkResponse(t, response, want)
	rec := *s.Record.DeepCopy()
	rec.ID, rec.Kind, rec.StartedAt = response.LeaseID, response.Kind, metav1.NewTime(session.Term.At)
	rec.Renewable, rec.Revocable = response.Term.Renewable, response.Revocable
	rec.SetHandle(session.Handle)
	if response.Identify != nil {
		response.Identify(&rec)
	}
	return rec, response
}

func checkResponse(t *testing.T, r backend.Response, want v1alpha1.ResponseKind) {
	t.Helper()
	leased := want == v1alpha1.ResponseLeased
	if r.Kind != want || (r.LeaseID != "") != leased {
		t.Fatalf("the response has kind %q and lease %q, want kind %q", r.Kind, r.LeaseID, want)
	}
	if len(r.Data) == 0 || r.Term.At.IsZero() {
		t.Fatalf("the response has %d fields and the time %s", len(r.Data), r.Term.At)
	}
	if want != v1alpha1.ResponseExpiring && r.Revocable {
		t.Errorf("a %s response is revocable without an id", want)
	}
	for _, field := range r.Volatile {
		if _, ok := r.Data[field]; !ok || want != v1alpha1.ResponseScheduled {
			t.Errorf("the volatile field %q of a %s response", field, want)
		}
	}
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v (%s)", what, err, backend.KindOf(err))
	}
}

func isGone(err error) bool { return err != nil && backend.KindOf(err) == backend.Gone }

// wantGone fails unless a lookup and a renewal report that the lease is gone.
func wantGone(t *testing.T, s Subject, rec v1alpha1.LeaseRecord) {
	t.Helper()
	if err := s.Backend.Lookup(t.Context(), rec); !isGone(err) {
		t.Errorf("the lookup returned %v, want Gone", err)
	}
	if _, err := s.Backend.Renew(t.Context(), rec, time.Minute); !isGone(err) {
		t.Errorf("the renewal returned %v, want Gone", err)
	}
}

func live(t *testing.T, s Subject, want int) {
	t.Helper()
	if got := s.Live(t); got != want {
		t.Errorf("%d are alive, want %d", got, want)
	}
}

// eventually waits for what a backend does in the background.
func eventually(t *testing.T, s Subject, what string, holds func() bool) {
	t.Helper()
	for range 120 {
		if holds() {
			return
		}
		s.Wait(t, 250*time.Millisecond)
	}
	t.Fatalf("it never happened: %s", what)
}

func near(got, want time.Duration) bool { return got <= want+time.Second && got >= want-slack }
