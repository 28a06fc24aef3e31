package backend

import (
	"context"
	"time"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Optional abilities of a Backend. As finds them behind decorators, and decorates them too.

// Preparer obtains what the request of a source needs besides the source itself, such as values that it refers to.
type Preparer interface {
	// Prepare is called before Login, so that nothing is minted if something is missing. The result is for
	// Session.Inputs; nil: the source needs nothing. It contacts only the API server of the cluster.
	Prepare(ctx context.Context, who Identity, src v1alpha1.SecretSource) (any, error)
}

// Prepare calls the Preparer of a backend that is one.
func Prepare(ctx context.Context, b Backend, who Identity, src v1alpha1.SecretSource) (any, error) {
	if p, ok := As[Preparer](b); ok {
		return p.Prepare(ctx, who, src)
	}
	return nil, nil
}

// Reader requests sources without a lease again, to find new values.
type Reader interface {
	// Read requests the source again as the workload. It may use one session for many reads. A response that has a
	// lease after all is revoked at once; the error is InvalidResponse then.
	Read(ctx context.Context, who Identity, src v1alpha1.SecretSource) (Response, error)
}

// Lister lists leases, so that one request verifies many.
type Lister interface {
	// Folder names the list that contains the lease of the record. Records with the same folder are in the same list.
	Folder(rec *v1alpha1.LeaseRecord) string
	// List returns the ids of the leases in the folder of the record. The list is a hint: a replica that lags behind
	// lists too few, and an expired lease that cannot be revoked is still listed. Denied has the missing permissions.
	List(ctx context.Context, rec v1alpha1.LeaseRecord) (map[string]bool, error)
}

// Inspector checks whether a provider can be used.
type Inspector interface {
	// Inspect contacts the server and reports the permissions that leasekeeper's own identity lacks there. On an error
	// the report is partial.
	Inspect(ctx context.Context) (Report, error)
}

// OutageReporter tells an outage of the server from errors that concern some requests only, such as those of a path or
// a role.
type OutageReporter interface {
	// LastOutage is when the server as a whole was last found unavailable; zero: never. It contacts nobody.
	LastOutage() time.Time
}

// Report is the result of an inspection.
type Report struct {
	// ServerKind is the product, such as Vault or OpenBao.
	ServerKind string
	// Version of the server; empty if it does not say.
	Version string
	// Address of the server, for messages.
	Address string
	// Identity is who must have the permissions, for messages: `role "keeper"`.
	Identity string
	// Unattended is true if leasekeeper has no identity of its own at the server and borrows the workload's.
	Unattended bool
	// Missing are the required permissions that Identity lacks, such as `sys/leases/revoke: update`, sorted.
	Missing []string
	// Accepted is true if the provider's spec accepts that permissions are missing: it is ready without them.
	Accepted bool
	// Remedy says what can be done about missing permissions besides granting them; empty: nothing.
	Remedy string
	// Notes are sentences for the Ready condition: what works, or works differently, because of the provider's spec.
	Notes []string
	// Faults are sentences about known faults of the server's version, and what to do about them.
	Faults []string
	// Advised are optional permissions that make leasekeeper faster. Inspect leaves this empty, because the verifier
	// finds them.
	Advised []string
}

// As returns the ability of a backend, or of the backend that it decorates. Decorators on the way decorate the ability:
// a limit that an ability could bypass would be none.
func As[T any](b Backend) (T, bool) {
	if ability, ok := b.(T); ok {
		return ability, true
	}
	outer, ok := b.(interface{ Unwrap() Backend })
	if !ok {
		var none T
		return none, false
	}
	ability, ok := As[T](outer.Unwrap())
	if d, decorates := b.(abilityDecorator); ok && decorates {
		d.decorate(&ability)
	}
	return ability, ok
}

// abilityDecorator is a decorator of a Backend that decorates its optional abilities too.
type abilityDecorator interface {
	// decorate replaces what ability points to, such as a *Reader, by a decorated one.
	decorate(ability any)
}
