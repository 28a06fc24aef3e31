package lifecycle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/rollout"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

// The interfaces of this file are everything that a lifecycle touches. In the manager they are the API server and the
// backends; in the property tests they lose responses, serve stale reads and disagree about time.

// objects reads and writes DynamicSecrets. Get is not cached. Writes are locked by the resource version, fill the
// object with what was stored, and return the API server's errors unchanged.
type objects interface {
	Get(ctx context.Context, key types.NamespacedName) (*v1alpha1.DynamicSecret, error)
	UpdateStatus(ctx context.Context, d *v1alpha1.DynamicSecret) error
	// PatchStatus writes only what differs between the two.
	PatchStatus(ctx context.Context, before, d *v1alpha1.DynamicSecret) error
	SetFinalizer(ctx context.Context, d *v1alpha1.DynamicSecret, present bool) error
}

// secrets reads and writes Secrets. Get is not cached. Cached returns the metadata of a Secret of ours from the cache;
// nil: the cache has none. Patch and Delete are locked by UID and resource version. A dry run stores nothing. Create
// fills the Secret with what was stored; Patch returns it.
type secrets interface {
	Cached(ctx context.Context, key types.NamespacedName) (*metav1.PartialObjectMetadata, error)
	// Owned lists the metadata of the Secrets in the cache that have the object's label.
	Owned(ctx context.Context, d *v1alpha1.DynamicSecret) ([]metav1.PartialObjectMetadata, error)
	Get(ctx context.Context, key types.NamespacedName) (*corev1.Secret, error)
	Create(ctx context.Context, s *corev1.Secret, dryRun bool) error
	Patch(ctx context.Context, change secret.Change, dryRun bool) (*corev1.Secret, error)
	Delete(ctx context.Context, m *metav1.ObjectMeta) error
}

// sources finds where the credentials come from.
type sources interface {
	// Resolve checks what the spec names. What prevents an issuance is in Block, not an error.
	Resolve(ctx context.Context, d *v1alpha1.DynamicSecret) (*resolved, error)
	// BackendFor finds the backend in which a record lives, whatever the spec says by now.
	BackendFor(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) (backend.Backend, error)
	// Disputed refuses a record that another object's ledger names too: somebody else wrote one of the two.
	Disputed(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord) error
	// Sharers names other objects that use the user of a record which may be revoked, by the record's lease.Key.
	Sharers(ctx context.Context, d *v1alpha1.DynamicSecret) map[string]string
}

// rollouts moves the consumers of a Secret to its new credential.
type rollouts interface {
	// Follow stamps the workloads that must roll out, and reports their progress. With hold, workloads that also use
	// other Secrets are not stamped yet. Contested workloads are not stamped at all.
	Follow(
		ctx context.Context, d *v1alpha1.DynamicSecret, hold bool, contested map[string]bool,
	) (rollout.Progress, error)
}

// resolved is where the credentials of an object come from.
type resolved struct {
	// Sources in the order of the spec.
	Sources []source
	// Block says why nothing can be issued; nil: no check failed.
	Block *lease.Block
	// Revision changes when a provider's spec changes, or its backend becomes available again.
	Revision string
	// Recoveries counts how often the providers' backends became available again.
	Recoveries int64
}

// source is where one credential comes from.
type source struct {
	// Spec of the source.
	Spec v1alpha1.SecretSource
	// Record with everything that is known before the issuance. Its RequestDigest is empty if the provider is missing.
	Record v1alpha1.LeaseRecord
	// Identity to log in as.
	Identity backend.Identity
	// Backend to use; nil if there is a Block.
	Backend backend.Backend
}

// Announcer reports what happened.
type Announcer interface {
	// Event on the object.
	Event(d *v1alpha1.DynamicSecret, kind, reason, message string)
	// Abandoned reports, wherever that is still possible, that a record was given up.
	Abandoned(ctx context.Context, d *v1alpha1.DynamicSecret, rec *v1alpha1.LeaseRecord, why string)
	// Count an operation by its result.
	Count(operation, result string)
}
