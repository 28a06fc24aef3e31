package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

// maxIncrement requests as much as Vault grants. Vault caps it at the maximum of the token's role and of its mount, and
// at the period of a periodic token.
const maxIncrement = 10 * 365 * 24 * time.Hour

// refusesRenewal says whether a response with status 400 is about the lease, and not about an engine that is down or a
// node that is not active any more.
func refusesRenewal(a response) bool {
	return len(a.errorTexts()) > 0 && !a.unavailable()
}

// Renew implements backend.Backend.
func (b *Backend) Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	r, err := b.leaseCall(ctx, "renew", rec, map[string]any{"increment": wholeSeconds(increment)})
	if err != nil {
		return lease.Term{}, err
	}
	what := "renewing a lease of " + rec.Vault.Path
	a, ok := r.parse()
	switch {
	case r.status == http.StatusBadRequest && a.says(leaseGone):
		return lease.Term{}, backend.Errorf(backend.Gone, "%s: it no longer exists: %s", what, a.errorText())
	case r.status == http.StatusBadRequest && refusesRenewal(a):
		return lease.Term{}, backend.Errorf(backend.Refused, "%s: Vault refused: %s", what, a.errorText())
	case !succeeded(r.status):
		return lease.Term{}, b.keeperFault(r, what, "sys/leases/renew")
	case !ok || a.LeaseID != rec.ID || seconds(a.LeaseDuration) == 0:
		// A term of no duration would make a live lease look expired.
		return lease.Term{}, unusable(r, what)
	}
	return lease.Term{
		At: r.at, Duration: seconds(a.LeaseDuration), Renewable: a.Renewable, Capped: a.says(ttlCapped),
	}, nil
}

// ExtendSession implements backend.Backend.
func (b *Backend) ExtendSession(
	ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner,
) (lease.Term, error) {
	const what = "extending the issuing token"
	state, err := b.verifyToken(ctx, rec, owner)
	if err != nil {
		return lease.Term{}, err
	}
	if state != tokenAlive {
		return lease.Term{}, backend.Errorf(backend.Gone, "%s: it no longer exists", what)
	}
	r, err := b.accessorCall(ctx, "renew-accessor", rec, map[string]any{"increment": wholeSeconds(maxIncrement)})
	if err != nil {
		return lease.Term{}, err
	}
	a, ok := r.parse()
	switch {
	case clientError(r.status) && a.says(tokenGone):
		return lease.Term{}, backend.Errorf(backend.Gone, "%s: it no longer exists: %s", what, a.errorText())
	case r.status == http.StatusBadRequest && ok && !a.outage():
		return lease.Term{}, backend.Errorf(backend.Refused, "%s: Vault refused, it may not be renewable: %s",
			what, a.errorText())
	case !succeeded(r.status):
		return lease.Term{}, b.keeperFault(r, what, "auth/token/renew-accessor")
	case !ok || a.Auth == nil:
		return lease.Term{}, unusable(r, what)
	}
	return lease.Term{
		At: r.at, Duration: seconds(a.Auth.LeaseDuration), Renewable: a.Auth.Renewable, Capped: a.says(ttlCapped),
	}, nil
}

// Lookup implements backend.Backend. A lease that expired and whose revocation fails is still listed; it is dead.
func (b *Backend) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	state, err := b.stateOf(ctx, rec)
	if err != nil {
		return err
	}
	if state != leaseAlive {
		return backend.Errorf(backend.Gone, "looking up a lease of %s: it no longer exists", rec.Vault.Path)
	}
	return nil
}

// leaseState is what Vault reports about a lease.
type leaseState int

const (
	leaseUnknown leaseState = iota // Vault does not have it
	leaseDead                      // it expired or is being revoked, and its credential may still exist
	leaseAlive
)

func (b *Backend) stateOf(ctx context.Context, rec v1alpha1.LeaseRecord) (leaseState, error) {
	r, err := b.leaseCall(ctx, "lookup", rec, nil)
	if err != nil {
		return 0, err
	}
	what := "looking up a lease of " + rec.Vault.Path
	a, ok := r.parse()
	switch {
	case r.status == http.StatusBadRequest && a.says(leaseGone):
		return leaseUnknown, nil
	case !succeeded(r.status):
		return 0, b.keeperFault(r, what, "sys/leases/lookup")
	}
	fields := object(a.Data)
	var id string
	var ttl float64
	if !ok || readString(fields["id"], &id) != nil || id != rec.ID {
		return 0, unusable(r, what)
	}
	// A lease that never expires has no expire_time, and a ttl of 0.
	if isNull(fields["expire_time"]) {
		return leaseAlive, nil
	}
	// A missing ttl does not prove that the lease expired.
	if isNull(fields["ttl"]) || json.Unmarshal(fields["ttl"], &ttl) != nil {
		return 0, backend.Errorf(backend.InvalidResponse, "%s: %s did not report its ttl", what, r.address)
	}
	if ttl <= 0 {
		return leaseDead, nil
	}
	return leaseAlive, nil
}

// leaseCall sends a request to sys/leases/<verb> about the record's lease.
func (b *Backend) leaseCall(
	ctx context.Context, verb string, rec v1alpha1.LeaseRecord, more map[string]any,
) (rawResponse, error) {
	at, err := locationOf(&rec)
	if err != nil {
		return rawResponse{}, err
	}
	if !ofPath(at.Path, rec.ID) {
		return rawResponse{}, foreign(at.Path)
	}
	body := map[string]any{"lease_id": rec.ID}
	for key, value := range more {
		body[key] = value
	}
	return b.asKeeper(ctx, call{
		method: http.MethodPut, path: "sys/leases/" + verb, namespace: or(at.Namespace, b.spec.Namespace), body: body,
	})
}

// accessorCall sends a request to auth/token/<verb> about the record's token.
func (b *Backend) accessorCall(
	ctx context.Context, verb string, rec v1alpha1.LeaseRecord, more map[string]any,
) (rawResponse, error) {
	at, err := locationOf(&rec)
	if err != nil {
		return rawResponse{}, err
	}
	if !utf8.ValidString(at.TokenAccessor) {
		// JSON would change it to another accessor.
		return rawResponse{}, backend.Errorf(backend.Mismatch,
			"the record's accessor is not one of Vault's: nothing is done to it or to the record's lease")
	}
	body := map[string]any{"accessor": at.TokenAccessor}
	for key, value := range more {
		body[key] = value
	}
	return b.asKeeper(ctx, call{
		method: http.MethodPost, path: "auth/token/" + verb, namespace: b.spec.Namespace, body: body,
	})
}

func clientError(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusForbidden || status == http.StatusNotFound
}
