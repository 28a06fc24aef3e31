package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault/auth"
)

// revocationPolls are the pauses before each lookup of a lease whose token was revoked. Vault revokes the lease in the
// background, usually within 0.3 s. To wait for that is cheaper than a revocation that waits for the database.
var revocationPolls = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

// Revoke implements backend.Backend. It usually takes three requests: look up the token, revoke it, look up the lease.
//
// The ledger is not trusted blindly, because a user may have the right to change an object's status. A token is revoked
// only if Vault confirms that it is the owner's. A lease is revoked by its id only if the id belongs to the record's
// path. Vault does not report whose a lease or a certificate is, so the caller must check that no other object has the
// same id or serial number.
//
// If Vault does not know the accessor, that proves nothing about the lease, so the lease is looked up nevertheless.
func (b *Backend) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) error {
	at, err := locationOf(&rec)
	if err != nil {
		return err
	}
	if rec.ID != "" && !ofPath(at.Path, rec.ID) {
		return foreign(at.Path)
	}
	token := tokenUnknown
	if at.TokenAccessor != "" {
		if token, err = b.revokeToken(ctx, rec, owner); err != nil {
			return err
		}
		if token == tokenUnknown && b.mayLag(rec) {
			return backend.Errorf(backend.Unavailable,
				"%s: a standby may not know the token yet, because it is new: it is looked up again", lookingUpOwner)
		}
	}
	switch {
	case rec.ID != "":
		return b.revokeLease(ctx, rec, token == tokenAlive)
	case at.SerialNumber != "":
		return b.revokeCertificate(ctx, at)
	case token == tokenDying:
		// Nothing else names what the token may own, so nothing but Vault's statement about it ends the record.
		return backend.Errorf(backend.Failed, "%s: Vault refuses, although the policy of %s has %s: Vault may still "+
			"be revoking the token", lookingUpOwner, b.keeperName(), keeperLine("auth/token/lookup-accessor"))
	}
	// What the token issued is revoked with it, in the background.
	return nil
}

// settleTime is how far a standby that serves reads may lag behind the active node.
const settleTime = 10 * time.Second

// mayLag says that a standby may not have what the record names yet. An accessor that it does not know proves nothing
// then: the token and its lease may be alive.
func (b *Backend) mayLag(rec v1alpha1.LeaseRecord) bool {
	return b.standbysRead.Load() && b.clock.Now().Sub(rec.StartedAt.Time) < settleTime
}

// revokeLease revokes the lease unless it disappears with its token.
func (b *Backend) revokeLease(ctx context.Context, rec v1alpha1.LeaseRecord, tokenRevoked bool) error {
	gone, err := b.leaseGone(ctx, rec, tokenRevoked)
	if gone || err != nil {
		return err
	}
	return b.revokeOnce(ctx, rec)
}

// tokenState is what is known of a record's token.
type tokenState int

const (
	tokenUnknown tokenState = iota // Vault does not have it
	// tokenDying: Vault seems to be revoking it. That is only inferred.
	tokenDying
	tokenAlive
)

const lookingUpOwner = "looking up the owner of a record's token"

// revokeToken revokes the record's token if it is the owner's. It returns what the token was before.
func (b *Backend) revokeToken(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (tokenState, error) {
	state, err := b.verifyToken(ctx, rec, owner)
	if err != nil || state != tokenAlive {
		return state, err
	}
	r, err := b.accessorCall(ctx, "revoke-accessor", rec, nil)
	if err != nil {
		return state, err
	}
	a, _ := r.parse()
	if !succeeded(r.status) && !(clientError(r.status) && a.says(tokenGone)) {
		return state, b.keeperFault(r, "revoking the issuing token", "auth/token/revoke-accessor")
	}
	return state, nil
}

// verifyToken checks that the record's token is the owner's if it is alive. Mismatch: it is another's.
func (b *Backend) verifyToken(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (tokenState, error) {
	r, err := b.accessorCall(ctx, "lookup-accessor", rec, nil)
	if err != nil {
		return tokenUnknown, err
	}
	a, ok := r.parse()
	switch {
	case clientError(r.status) && a.says(tokenGone):
		return tokenUnknown, nil
	case r.status == http.StatusForbidden:
		return tokenDying, b.checkLookupPolicy(ctx, r)
	case !succeeded(r.status):
		return tokenUnknown, b.keeperFault(r, lookingUpOwner, "auth/token/lookup-accessor")
	case !ok || isNull(a.Data):
		return tokenUnknown, unusable(r, lookingUpOwner)
	}
	return tokenAlive, b.checkOwner(a.Data, owner)
}

// checkLookupPolicy distinguishes the meanings of a 403 to lookup-accessor. Either the policy lacks the line, or the
// session is no longer valid; both are errors. Or the record's token is being revoked: Vault still finds the accessor
// but no token (handleUpdateLookupAccessor in vault/token_store.go returns the plain "permission denied" of
// handleLookup).
//
// The capabilities are those of the session that was refused: another session may have the line although this one was
// not valid.
func (b *Backend) checkLookupPolicy(ctx context.Context, r rawResponse) error {
	const path = "auth/token/lookup-accessor"
	own, err := b.do(ctx, capabilitiesCall(b.spec.Namespace, r.token, []string{path}))
	if err != nil {
		return err
	}
	has, missing, err := b.readCapabilities(own, []string{path})
	if err != nil || missing != "" || !hasAll(has[path], "update") {
		return b.keeperFault(r, lookingUpOwner, path)
	}
	return nil
}

// checkOwner checks that this provider's auth created the token for the owner.
func (b *Backend) checkOwner(raw json.RawMessage, owner backend.Owner) error {
	var t auth.Description
	if json.Unmarshal(raw, &t) != nil {
		return backend.Errorf(backend.InvalidResponse, "Vault's description of a record's token cannot be read")
	}
	issuer, err := auth.Issuer(b.spec, b.namespace)
	if err != nil {
		return err
	}
	if !issuer.Owns(t, owner) {
		return backend.Errorf(backend.Mismatch,
			"this provider did not create the record's token for %s/%s: "+
				"nothing is done to the token or to the record's lease",
			owner.Namespace, owner.Name)
	}
	return nil
}

// leaseGone looks the lease up: once, or several times if its token was just revoked.
func (b *Backend) leaseGone(ctx context.Context, rec v1alpha1.LeaseRecord, tokenRevoked bool) (bool, error) {
	if !tokenRevoked {
		state, err := b.stateOf(ctx, rec)
		return err == nil && state == leaseUnknown, err
	}
	for _, pause := range revocationPolls {
		if err := b.sleep(ctx, pause); err != nil {
			cancelled := backend.Errorf(backend.NoResponse,
				"waiting for Vault to revoke a lease of %s was cancelled", rec.Vault.Path)
			cancelled.Err = err
			return false, cancelled
		}
		state, err := b.stateOf(ctx, rec)
		if err != nil || state == leaseUnknown {
			return err == nil, err
		}
	}
	return false, nil
}

// revokeOnce revokes the lease by its id and waits for the result. Only a lookup that does not find the lease proves
// it: Vault responds 2xx for an unknown lease, and may respond with an error for one that disappeared meanwhile.
func (b *Backend) revokeOnce(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	at, err := locationOf(&rec)
	if err != nil {
		return err
	}
	r, err := b.leaseCall(ctx, "revoke", rec, map[string]any{"sync": true})
	if err != nil {
		return err
	}
	what := "revoking a lease of " + at.Path
	var failed error
	if !succeeded(r.status) {
		if failed = b.keeperFault(r, what, "sys/leases/revoke"); backend.KindOf(failed) != backend.Failed {
			return failed
		}
	}
	if state, err := b.stateOf(ctx, rec); err != nil || state == leaseUnknown {
		return err
	}
	if failed == nil {
		failed = backend.Errorf(backend.Failed, "%s: Vault reported success but still has the lease", what)
	}
	return failed
}

// revokeCertificate revokes a certificate of the pki engine that has no lease. An unknown serial number is a success:
// the role has no_store, or Vault has removed the expired certificate, and nothing can be revoked.
func (b *Backend) revokeCertificate(ctx context.Context, at *v1alpha1.VaultRecord) error {
	match := certificatePath.FindStringSubmatch(at.Path)
	if match == nil || !isPath(at.Path) || !serialNumber.MatchString(at.SerialNumber) {
		return backend.Errorf(backend.Mismatch,
			"the record's serial number is not that of a certificate of its path %q: nothing is done to it",
			cut(oneLine(at.Path), 128))
	}
	path := match[1] + "/revoke"
	r, err := b.asKeeper(ctx, call{
		method: http.MethodPut, path: path, namespace: or(at.Namespace, b.spec.Namespace),
		body: map[string]any{"serial_number": at.SerialNumber}, engine: true,
	})
	if err != nil || succeeded(r.status) {
		return err
	}
	if a, _ := r.parse(); r.status == http.StatusBadRequest && a.says(unknownSerial, at.SerialNumber) {
		return nil
	}
	return b.keeperFault(r, fmt.Sprintf("revoking certificate %s of %s", at.SerialNumber, at.Path), path)
}
