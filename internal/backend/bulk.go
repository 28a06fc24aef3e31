package backend

import (
	"context"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// BulkRevoker is the optional ability to revoke the leases that a LeaseRevocation selects, of any owner.
//
// Every error that comes from the server or from the network is an *Error. Misconfigured: the spec selects nothing that
// this backend may revoke, and no request was sent. Denied names every permission that the revocation lacks. All
// methods can be repeated. A repeated RevokeAll also revokes leases that were issued after the first call.
type BulkRevoker interface {
	// Matching returns the ids of the selected leases that the server lists, including expired leases that it could not
	// revoke.
	Matching(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec) ([]string, error)

	// RevokeAll starts to revoke the selected leases. A nil error means that all of them have expired, that none can be
	// renewed, and that the server is revoking them in the background. It never forces a revocation.
	RevokeAll(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec) error

	// RevokeOne revokes one of the selected leases and waits for the result. With force the server forgets a lease that
	// it cannot revoke. A lease that no longer exists is no error.
	RevokeOne(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string, force bool) error

	// Lives is true if the lease exists and has not expired.
	Lives(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, id string) (bool, error)

	// Covers is true if the lease of the record is one of the selected leases. It contacts nobody.
	Covers(spec *v1alpha1.LeaseRevocationSpec, rec *v1alpha1.LeaseRecord) bool
}
