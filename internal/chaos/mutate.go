package chaos

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// mutation changes an object or its Secret or lease.
type mutation struct {
	name string
	// weight is the relative probability.
	weight int
	// cause reports whether it causes a new credential.
	cause bool
	apply func(s *storm, ctx context.Context, name, value string) error
}

var mutations = []mutation{
	{"rotation requested", 6, true, func(s *storm, ctx context.Context, name, value string) error {
		return s.annotate(ctx, name, v1alpha1.RotateRequestedAtAnnotation, value)
	}},
	{"renewal requested", 3, false, func(s *storm, ctx context.Context, name, value string) error {
		return s.annotate(ctx, name, v1alpha1.RenewRequestedAtAnnotation, value)
	}},
	{"Secret deleted", 3, true, func(s *storm, ctx context.Context, name, _ string) error {
		return s.kube.Delete(ctx, &corev1.Secret{ObjectMeta: objectMeta(name)})
	}},
	{"Secret edited", 3, true, func(s *storm, ctx context.Context, name, value string) error {
		edit := `{"data":{"password":"` + base64.StdEncoding.EncodeToString([]byte("edited-"+value)) + `"}}`
		return s.kube.Patch(ctx, &corev1.Secret{ObjectMeta: objectMeta(name)},
			client.RawPatch(types.MergePatchType, []byte(edit)))
	}},
	{"lease revoked out of band", 3, true, (*storm).revoke},
	{"object deleted", 2, false, func(s *storm, ctx context.Context, name, _ string) error {
		return s.kube.Delete(ctx, object(name, "", 0))
	}},
}

// mutateObjects applies random mutations to random objects. It creates objects that do not exist.
func (s *storm) mutateObjects(stormCtx, ctx context.Context, random *rand.Rand) error {
	names := s.history.names(mutated, expiring)
	var weighted []mutation
	for _, m := range mutations {
		for range m.weight {
			weighted = append(weighted, m)
		}
	}
	pause := func() bool {
		return sleep(stormCtx, randomDuration(random, 50*time.Millisecond, 350*time.Millisecond))
	}
	for i := 0; pause() && s.awaitFaultsAllowed(stormCtx); i++ {
		name, m := names[random.IntN(len(names))], weighted[random.IntN(len(weighted))]
		if err := s.mutate(ctx, name, m, fmt.Sprint(i)); err != nil {
			return fmt.Errorf("%s of %s: %w", m.name, name, err)
		}
	}
	return nil
}

func (s *storm) mutate(ctx context.Context, name string, m mutation, value string) error {
	d := &v1alpha1.DynamicSecret{}
	err := s.kube.Get(ctx, types.NamespacedName{Namespace: runName, Name: name}, d)
	if apierrors.IsNotFound(err) {
		s.count("object created")
		return s.create(ctx, name)
	}
	if err != nil || !d.DeletionTimestamp.IsZero() {
		return err
	}
	markTriggered, withdraw := func() {}, func() {}
	if m.cause {
		c := s.history.addCause(name)
		markTriggered, withdraw = c.markTriggered, c.withdraw
	}
	err = m.apply(s, ctx, name, value)
	if apierrors.IsNotFound(err) || errors.Is(err, errSkipped) {
		withdraw()
		return nil
	}
	markTriggered()
	s.count(m.name)
	return err
}

func (e *environment) annotate(ctx context.Context, name, annotation, value string) error {
	edit := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotation, value)
	return e.kube.Patch(ctx, object(name, "", 0), client.RawPatch(types.MergePatchType, []byte(edit)))
}

var errSkipped = errors.New("mutation skipped")

// revoke revokes the lease as `vault lease revoke` does.
func (s *storm) revoke(ctx context.Context, name, _ string) error {
	if !s.vaultRunning.TryRLock() {
		return errSkipped // Vault is stopped
	}
	defer s.vaultRunning.RUnlock()
	d := &v1alpha1.DynamicSecret{}
	if err := s.kube.Get(ctx, types.NamespacedName{Namespace: runName, Name: name}, d); err != nil {
		return err
	}
	if onlyLease(d) == nil {
		return errSkipped
	}
	err := s.bed.Vault.Root.Sys().RevokeWithContext(ctx, onlyLease(d).ID)
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return nil // PostgreSQL is stopped, and Vault may have started the revocation
	}
	return err
}
