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
	// ListNext continues a list of the selected leases, by one or two requests: a server may need thousands for all of
	// them. The list includes expired leases that the server could not revoke. An error loses nothing of the list.
	ListNext(ctx context.Context, spec *v1alpha1.LeaseRevocationSpec, l *Listing) error

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

// Listing is a list of leases in progress. The zero value is one that has not begun.
type Listing struct {
	// IDs that were found so far.
	IDs []string
	// Pending are the places that must still be listed, in the backend's own terms. Listed is how many were.
	Pending []string
	Listed  int
	// Complete: IDs are all of them.
	Complete bool
}
