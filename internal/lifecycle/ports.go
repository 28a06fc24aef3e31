package lifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
)

// The interfaces of this file are all that the life of a lease touches. In the manager they stand for the API server
// and the backends; in the property tests for ones that lose answers, lie about time and forget.

// objects reads and writes DynamicSecrets. Reads are not cached. Writes are locked by the resource version, fill the
// object with what was stored, and return the API server's errors as they are.
type objects interface {
	Get(ctx context.Context, key types.NamespacedName) (*v1alpha1.DynamicSecret, error)
	UpdateStatus(ctx context.Context, d *v1alpha1.DynamicSecret) error
	SetFinalizer(ctx context.Context, d *v1alpha1.DynamicSecret, present bool) error
}

// secrets reads and writes Secrets. Reads are not cached. Update and Delete are locked by uid and resource version.
// A dry run stores nothing.
type secrets interface {
	Get(ctx context.Context, key types.NamespacedName) (*corev1.Secret, error)
	Create(ctx context.Context, s *corev1.Secret, dryRun bool) error
	Update(ctx context.Context, s *corev1.Secret, dryRun bool) error
	Delete(ctx context.Context, s *corev1.Secret) error
}

// sources finds out where a credential comes from.
type sources interface {
	// Resolve looks at what the spec names. What speaks against issuing is in the source's Block, not an error.
	Resolve(ctx context.Context, d *v1alpha1.DynamicSecret) (*source, error)
	// BackendFor finds the backend that a record lives in, whatever the spec says by now.
	BackendFor(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (backend.Backend, error)
	// Disputed refuses a record that another object's ledger names too: one of the two was written by somebody else.
	Disputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) error
}

// rollouts moves the consumers of a Secret to its new credential.
type rollouts interface {
	// Follow stamps those that are to roll out, and says how far they are. With hold, those that are shared with another
	// Secret are not stamped yet.
	Follow(ctx context.Context, d *v1alpha1.DynamicSecret, s *corev1.Secret, hold bool) (rollout.Progress, error)
}

// source is where a credential comes from.
type source struct {
	// Block says why nothing can be issued; nil: nothing speaks against it.
	Block *lease.Block
	// Backend to ask; nil where there is a Block.
	Backend backend.Backend
	// Where is a record with all that is known before the issue.
	Where v1alpha1.LeaseRecord
	// Identity to ask as.
	Identity backend.Identity
	// Request to make.
	Request backend.Request
	// ProviderGeneration tells one spec of the provider from another.
	ProviderGeneration int64
	// Recoveries counts how often the provider's backend came back after it had been away.
	Recoveries int64
}

// Announcer tells people what happened.
type Announcer interface {
	// Event on the object.
	Event(d *v1alpha1.DynamicSecret, kind, reason, message string)
	// Abandoned says, wherever it can still be said, that a record was given up.
	Abandoned(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, why string)
	// Count an issue, a renewal or an end by its result.
	Count(what, result string)
}
