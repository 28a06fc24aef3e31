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

// asFarAsItGoes is the increment that stands for "as long as you give". Vault caps it by the maximum of the token's
// role and its mount, and by the period of a periodic token.
const asFarAsItGoes = 10 * 365 * 24 * time.Hour

// leaseGone are the texts, and the only ones, that say that a lease is no more: of renewing a revoked one, of renewing
// an expired one, and of looking one up.
var leaseGone = []string{"lease not found", "lease expired", "invalid lease"}

// tokenGone are the texts that say that a token is no more. Those of a lease are about the lease that every token has.
var tokenGone = []string{"invalid accessor", "token not found", "invalid lease ID", "lease not found", "lease expired"}

// Renew implements backend.Backend.
func (b *Backend) Renew(ctx context.Context, rec v1alpha1.LeaseRecord, increment time.Duration) (lease.Term, error) {
	r, err := b.leaseCall(ctx, "renew", rec, map[string]any{"increment": wholeSeconds(increment)})
	if err != nil {
		return lease.Term{}, err
	}
	what := "renewing a lease of " + rec.Path
	a, ok := r.parse()
	switch {
	case r.status == http.StatusBadRequest && a.says(leaseGone...):
		return lease.Term{}, backend.Errorf(backend.Gone, "%s: Vault no longer has it: %s", what, a.quote())
	case !succeeded(r.status):
		return lease.Term{}, b.keeperFault(r, what, "sys/leases/renew")
	case !ok || a.LeaseID != rec.ID || seconds(a.LeaseDuration) == 0:
		// A renewal for no time would end a lease that lives.
		return lease.Term{}, backend.Errorf(backend.InvalidResponse, "%s: %s gave an answer that cannot be used", what, r.address)
	}
	return lease.Term{At: r.at, Duration: seconds(a.LeaseDuration), Renewable: a.Renewable, Capped: a.capped()}, nil
}

// ExtendToken implements backend.Backend.
func (b *Backend) ExtendSession(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (lease.Term, error) {
	known, err := b.identify(ctx, rec, owner)
	if err != nil {
		return lease.Term{}, err
	}
	if !known {
		return lease.Term{}, backend.Errorf(backend.Gone, "extending the issuing token: Vault no longer has it")
	}
	r, err := b.accessorCall(ctx, "renew-accessor", rec, map[string]any{"increment": wholeSeconds(asFarAsItGoes)})
	if err != nil {
		return lease.Term{}, err
	}
	const what = "extending the issuing token"
	a, ok := r.parse()
	switch {
	case clientError(r.status) && a.says(tokenGone...):
		return lease.Term{}, backend.Errorf(backend.Gone, "%s: Vault no longer has it: %s", what, a.quote())
	case r.status == http.StatusBadRequest && ok:
		return lease.Term{}, backend.Errorf(backend.Refused, "%s: Vault refuses it, it may not be renewable: %s", what, a.quote())
	case !succeeded(r.status):
		return lease.Term{}, b.keeperFault(r, what, "auth/token/renew-accessor")
	case !ok || a.Auth == nil:
		return lease.Term{}, backend.Errorf(backend.InvalidResponse, "%s: %s gave an answer that cannot be used", what, r.address)
	}
	return lease.Term{At: r.at, Duration: seconds(a.Auth.LeaseDuration), Renewable: a.Auth.Renewable, Capped: a.capped()}, nil
}

// Lookup implements backend.Backend. A lease that ran out and whose revocation fails stays listed; it is dead.
func (b *Backend) Lookup(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	found, err := b.lookup(ctx, rec)
	if err != nil {
		return err
	}
	if found != leaseAlive {
		return backend.Errorf(backend.Gone, "looking up a lease of %s: it is no more", rec.Path)
	}
	return nil
}

// leaseState is what Vault says of a lease.
type leaseState int

const (
	leaseUnknown leaseState = iota // Vault does not have it
	leaseDead                      // it ran out or is being revoked, and what it stands for may still exist
	leaseAlive
)

func (b *Backend) lookup(ctx context.Context, rec v1alpha1.LeaseRecord) (leaseState, error) {
	r, err := b.leaseCall(ctx, "lookup", rec, nil)
	if err != nil {
		return 0, err
	}
	what := "looking up a lease of " + rec.Path
	a, ok := r.parse()
	switch {
	case r.status == http.StatusBadRequest && a.says(leaseGone...):
		return leaseUnknown, nil
	case !succeeded(r.status):
		return 0, b.keeperFault(r, what, "sys/leases/lookup")
	}
	fields := object(a.Data)
	var id string
	var ttl float64
	if !ok || readString(fields["id"], &id) != nil || id != rec.ID {
		return 0, backend.Errorf(backend.InvalidResponse, "%s: %s gave an answer that cannot be used", what, r.address)
	}
	// A lease without an end has no expire_time, and a ttl of 0.
	if isNull(fields["expire_time"]) {
		return leaseAlive, nil
	}
	// A ttl that is not told is no proof of an end.
	if isNull(fields["ttl"]) || json.Unmarshal(fields["ttl"], &ttl) != nil {
		return 0, backend.Errorf(backend.InvalidResponse, "%s: %s does not say how long it lives", what, r.address)
	}
	if ttl <= 0 {
		return leaseDead, nil
	}
	return leaseAlive, nil
}

// leaseCall asks sys/leases/<verb> about the record's lease.
func (b *Backend) leaseCall(ctx context.Context, verb string, rec v1alpha1.LeaseRecord, more map[string]any) (reply, error) {
	if !ofPath(rec.Path, rec.ID) {
		return reply{}, foreign(rec.Path)
	}
	body := map[string]any{"lease_id": rec.ID}
	for key, value := range more {
		body[key] = value
	}
	return b.asKeeper(ctx, call{
		method: http.MethodPut, path: "sys/leases/" + verb, namespace: or(rec.VaultNamespace, b.spec.Namespace), body: body,
	})
}

// accessorCall asks auth/token/<verb> about the record's token.
func (b *Backend) accessorCall(ctx context.Context, verb string, rec v1alpha1.LeaseRecord, more map[string]any) (reply, error) {
	if !utf8.ValidString(rec.TokenAccessor) {
		// JSON would make another accessor of it.
		return reply{}, backend.Errorf(backend.Mismatch, "the record's accessor is not one of Vault's: it is left alone, and so is the record's lease")
	}
	body := map[string]any{"accessor": rec.TokenAccessor}
	for key, value := range more {
		body[key] = value
	}
	return b.asKeeper(ctx, call{method: http.MethodPost, path: "auth/token/" + verb, namespace: b.spec.Namespace, body: body})
}

func (b *Backend) keeperFault(r reply, what, path string) *backend.Error {
	return b.fault(r, what, b.keeperName(), keeperLine(path))
}

func clientError(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusForbidden || status == http.StatusNotFound
}
