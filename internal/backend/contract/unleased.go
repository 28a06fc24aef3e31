package contract

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func expiring(t *testing.T, harness Harness) {
	s := harness(t, Shape{Kind: v1alpha1.ResponseExpiring, TTL: time.Hour})
	one, response := issue(t, s, v1alpha1.ResponseExpiring)
	checkExpiring(t, s, one, response)
	if !response.Revocable {
		t.Fatal("the response is not revocable")
	}
	two, _ := issue(t, s, v1alpha1.ResponseExpiring)
	live(t, s, 2)
	for range 2 {
		noError(t, "revocation", s.Backend.Revoke(t.Context(), one, s.Who.Owner))
		live(t, s, 1)
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), two, s.Who.Owner))
	live(t, s, 0)
}

func notRevocable(t *testing.T, harness Harness) {
	s := harness(t, Shape{Kind: v1alpha1.ResponseExpiring, TTL: time.Hour, NotRevocable: true})
	rec, response := issue(t, s, v1alpha1.ResponseExpiring)
	checkExpiring(t, s, rec, response)
	if response.Revocable {
		t.Fatal("the response is revocable")
	}
	// Only its session can be revoked.
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func checkExpiring(t *testing.T, s Subject, rec v1alpha1.LeaseRecord, response backend.Response) {
	t.Helper()
	if !near(response.Term.Duration, time.Hour) || response.Term.Renewable || response.UnknownExpiry {
		t.Errorf("the term is %+v, the expiry unknown: %t", response.Term, response.UnknownExpiry)
	}
	sessionGone(t, s, rec)
}

func static(t *testing.T, harness Harness) {
	s := harness(t, Shape{Kind: v1alpha1.ResponseStatic})
	rec, response := issue(t, s, v1alpha1.ResponseStatic)
	if response.UnknownExpiry {
		t.Error("the expiry is unknown")
	}
	sessionGone(t, s, rec)
	first := read(t, s, v1alpha1.ResponseStatic)
	if !reflect.DeepEqual(first.Data, response.Data) {
		t.Error("a read returned other data than the issuance")
	}
	s.Change(t)
	if reflect.DeepEqual(read(t, s, v1alpha1.ResponseStatic).Data, first.Data) {
		t.Error("a read did not return the change")
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

func scheduled(t *testing.T, harness Harness) {
	s := harness(t, Shape{Kind: v1alpha1.ResponseScheduled})
	rec, response := issue(t, s, v1alpha1.ResponseScheduled)
	if len(response.Volatile) == 0 || response.Term.Duration <= 0 || response.Term.Renewable {
		t.Errorf("the term is %+v, the volatile fields are %v", response.Term, response.Volatile)
	}
	sessionGone(t, s, rec)
	s.Wait(t, 2*time.Second)
	before := read(t, s, v1alpha1.ResponseScheduled)
	if before.Term.Duration >= response.Term.Duration {
		t.Errorf("%s until the change, and %s before", before.Term.Duration, response.Term.Duration)
	}
	if !reflect.DeepEqual(stable(before), stable(response)) {
		t.Error("the data changed without a rotation")
	}
	s.Change(t)
	if reflect.DeepEqual(stable(read(t, s, v1alpha1.ResponseScheduled)), stable(before)) {
		t.Error("a read did not return the change")
	}
	noError(t, "revocation", s.Backend.Revoke(t.Context(), rec, s.Who.Owner))
}

// stable are the data without the volatile fields.
func stable(r backend.Response) map[string][]byte {
	data := maps.Clone(r.Data)
	maps.DeleteFunc(data, func(field string, _ []byte) bool { return slices.Contains(r.Volatile, field) })
	return data
}

// read reads the source again.
func read(t *testing.T, s Subject, want v1alpha1.ResponseKind) backend.Response {
	t.Helper()
	reader, ok := backend.As[backend.Reader](s.Backend)
	if !ok {
		t.Fatal("the backend has static responses and cannot read them again")
	}
	response, err := reader.Read(t.Context(), s.Who, s.Source)
	noError(t, "read", err)
	checkResponse(t, response, want)
	return response
}

func readOfALease(t *testing.T, harness Harness) {
	s := harness(t, usual)
	reader, ok := backend.As[backend.Reader](s.Backend)
	if !ok {
		t.Fatal("the backend cannot read a source again")
	}
	if _, err := reader.Read(t.Context(), s.Who, s.Source); backend.KindOf(err) != backend.InvalidResponse {
		t.Errorf("the read returned %v, want InvalidResponse", err)
	}
	eventually(t, s, "the lease is gone", func() bool { return s.Live(t) == 0 })
}
