package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// lookAgain are the pauses before each look at a lease whose token was ended: Vault revokes it in the background,
// usually within 0.3 s, and waiting for that is cheaper than a revocation that waits for the database.
var lookAgain = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

// End implements backend.Backend. A normal end takes three requests: who is the token, end it, is the lease gone.
//
// The ledger is not trusted blindly, since someone may have rights on an object's status. A token is ended only after
// Vault has said whose it is. A lease is revoked by its id only if the id lies below the record's own path; Vault does
// not tell whose a lease is, so one thing is left for the caller to check: that no other object claims the same id.
//
// An accessor that Vault does not know is no proof of anything, so the lease is looked for all the same.
func (b *Backend) Revoke(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) error {
	if rec.ID != "" && !ofPath(rec.Path, rec.ID) {
		return foreign(rec.Path)
	}
	ended := false
	if rec.TokenAccessor != "" {
		var err error
		if ended, err = b.endToken(ctx, rec, owner); err != nil {
			return err
		}
	}
	if rec.ID == "" {
		// What the token issued ends with it, in the background.
		return nil
	}
	gone, err := b.gone(ctx, rec, ended)
	if gone || err != nil {
		return err
	}
	return b.revoke(ctx, rec)
}

// endToken ends the record's token if it is the owner's. It says whether there was one to end.
func (b *Backend) endToken(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (bool, error) {
	if known, err := b.identify(ctx, rec, owner); err != nil || !known {
		return false, err
	}
	r, err := b.accessorCall(ctx, "revoke-accessor", rec, nil)
	if err != nil {
		return false, err
	}
	a, _ := r.parse()
	if !succeeded(r.status) && !(clientError(r.status) && a.says(tokenGone...)) {
		return false, b.keeperFault(r, "ending the issuing token", "auth/token/revoke-accessor")
	}
	return true, nil
}

// identify asks whose the record's token is: an error says that it is not the owner's, false that Vault does not have it.
func (b *Backend) identify(ctx context.Context, rec v1alpha1.LeaseRecord, owner backend.Owner) (bool, error) {
	r, err := b.accessorCall(ctx, "lookup-accessor", rec, nil)
	if err != nil {
		return false, err
	}
	const what = "asking whose token a record names"
	a, ok := r.parse()
	switch {
	case clientError(r.status) && a.says(tokenGone...):
		return false, nil
	case r.status == http.StatusForbidden:
		return false, b.halfGone(ctx, r, what)
	case !succeeded(r.status):
		return false, b.keeperFault(r, what, "auth/token/lookup-accessor")
	case !ok || isNull(a.Data):
		return false, backend.Errorf(backend.InvalidResponse, "%s: %s gave an answer that cannot be used", what, r.address)
	}
	return true, b.verify(a.Data, owner)
}

// halfGone tells the two meanings of 403 to lookup-accessor apart: the policy lacks the line, or the token is just
// being ended, so that Vault still finds the accessor but no token behind it (handleUpdateLookupAccessor in
// vault/token_store.go returns the bare "permission denied" of handleLookup). In the second case it is gone.
func (b *Backend) halfGone(ctx context.Context, r reply, what string) error {
	const path = "auth/token/lookup-accessor"
	missing, err := b.missing(ctx, []string{path})
	if err != nil || len(missing) > 0 {
		return b.keeperFault(r, what, path)
	}
	return nil
}

// token is what lookup-accessor says.
type token struct {
	Path string            `json:"path"`
	Meta map[string]string `json:"meta"`
}

// verify checks that a token was made by this provider's auth and for the owner.
func (b *Backend) verify(raw json.RawMessage, owner backend.Owner) error {
	var t token
	if json.Unmarshal(raw, &t) != nil {
		return backend.Errorf(backend.InvalidResponse, "Vault's description of a record's token cannot be read")
	}
	ours := false
	if k := b.spec.Auth.Kubernetes; k != nil {
		ours = t.Path == "auth/"+or(k.Mount, "kubernetes")+"/login" &&
			owner.Namespace != "" && t.Meta["service_account_namespace"] == owner.Namespace
	} else {
		ours = t.Path == "auth/token/create" && owner.UID != "" && t.Meta[metaUID] == owner.UID
	}
	if !ours {
		return backend.Errorf(backend.Mismatch,
			"the record's token was not made by this provider for %s/%s: it is left alone, and so is the record's lease", owner.Namespace, owner.Name)
	}
	return nil
}

// gone looks whether the lease is gone: once, or, if its token was just ended, a few times.
func (b *Backend) gone(ctx context.Context, rec v1alpha1.LeaseRecord, ended bool) (bool, error) {
	if !ended {
		found, err := b.lookup(ctx, rec)
		return err == nil && found == leaseUnknown, err
	}
	for _, pause := range lookAgain {
		if err := b.sleep(ctx, pause); err != nil {
			fault := backend.Errorf(backend.NoResponse, "gave up waiting for a lease of %s to be revoked", rec.Path)
			fault.Err = err
			return false, fault
		}
		found, err := b.lookup(ctx, rec)
		if err != nil || found == leaseUnknown {
			return err == nil, err
		}
	}
	return false, nil
}

// revoke revokes the lease by its id and waits for it. Only a look-up that does not find the lease proves the end: Vault
// says 2xx to an unknown lease, and may say an error about one that went away meanwhile.
func (b *Backend) revoke(ctx context.Context, rec v1alpha1.LeaseRecord) error {
	r, err := b.leaseCall(ctx, "revoke", rec, map[string]any{"sync": true})
	if err != nil {
		return err
	}
	what := "revoking a lease of " + rec.Path
	var failed error
	if !succeeded(r.status) {
		if failed = b.keeperFault(r, what, "sys/leases/revoke"); backend.KindOf(failed) != backend.Failed {
			return failed
		}
	}
	if found, err := b.lookup(ctx, rec); err != nil || found == leaseUnknown {
		return err
	}
	if failed == nil {
		failed = backend.Errorf(backend.Failed, "%s: Vault says that it is done, and still has it", what)
	}
	return failed
}

func readString(raw json.RawMessage, into *string) error {
	if raw == nil {
		return fmt.Errorf("missing")
	}
	return json.Unmarshal(raw, into)
}
