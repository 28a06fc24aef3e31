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

// order is something that is asked of an object.
type order struct {
	name string
	// weight is how often it is drawn.
	weight int
	// cause says that it is a cause for a new credential.
	cause bool
	give  func(s *storm, ctx context.Context, name, value string) error
}

var orders = []order{
	{"rotation ordered", 6, true, func(s *storm, ctx context.Context, name, value string) error {
		return s.annotate(ctx, name, v1alpha1.RotateRequestedAtAnnotation, value)
	}},
	{"renewal ordered", 3, false, func(s *storm, ctx context.Context, name, value string) error {
		return s.annotate(ctx, name, v1alpha1.RenewRequestedAtAnnotation, value)
	}},
	{"Secret deleted", 3, true, func(s *storm, ctx context.Context, name, _ string) error {
		return s.kube.Delete(ctx, &corev1.Secret{ObjectMeta: named(name)})
	}},
	{"Secret edited", 3, true, func(s *storm, ctx context.Context, name, value string) error {
		edit := `{"data":{"password":"` + base64.StdEncoding.EncodeToString([]byte("edited-"+value)) + `"}}`
		return s.kube.Patch(ctx, &corev1.Secret{ObjectMeta: named(name)}, client.RawPatch(types.MergePatchType, []byte(edit)))
	}},
	{"lease revoked behind our back", 3, true, (*storm).revoke},
	{"object deleted", 2, false, func(s *storm, ctx context.Context, name, _ string) error {
		return s.kube.Delete(ctx, object(name, "", 0))
	}},
}

// stir gives orders to objects, and creates those that are not there.
func (s *storm) stir(raging, ctx context.Context, random *rand.Rand) error {
	names := s.book.names(stirred, brief)
	var hat []order
	for _, o := range orders {
		for range o.weight {
			hat = append(hat, o)
		}
	}
	for i := 0; nap(raging, between(random, 50*time.Millisecond, 350*time.Millisecond)) && s.holdBreath(raging); i++ {
		name, o := names[random.IntN(len(names))], hat[random.IntN(len(hat))]
		if err := s.giveOrder(ctx, name, o, fmt.Sprint(i)); err != nil {
			return fmt.Errorf("%s, of %s: %w", o.name, name, err)
		}
	}
	return nil
}

func (s *storm) giveOrder(ctx context.Context, name string, o order, value string) error {
	d := &v1alpha1.DynamicSecret{}
	err := s.kube.Get(ctx, types.NamespacedName{Namespace: place, Name: name}, d)
	if apierrors.IsNotFound(err) {
		s.count("object created")
		return s.make(ctx, name)
	}
	if err != nil || !d.DeletionTimestamp.IsZero() {
		return err
	}
	given, takeBack := func() {}, func() {}
	if o.cause {
		c := s.book.cause(name)
		given, takeBack = c.wasGiven, c.takeBack
	}
	err = o.give(s, ctx, name, value)
	if apierrors.IsNotFound(err) || errors.Is(err, errNotGiven) {
		takeBack()
		return nil
	}
	given()
	s.count(o.name)
	return err
}

func (s *site) annotate(ctx context.Context, name, annotation, value string) error {
	edit := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, annotation, value)
	return s.kube.Patch(ctx, object(name, "", 0), client.RawPatch(types.MergePatchType, []byte(edit)))
}

var errNotGiven = errors.New("not given")

// revoke does what `vault lease revoke` does.
func (s *storm) revoke(ctx context.Context, name, _ string) error {
	if !s.root.TryRLock() {
		return errNotGiven // Vault is away
	}
	defer s.root.RUnlock()
	d := &v1alpha1.DynamicSecret{}
	if err := s.kube.Get(ctx, types.NamespacedName{Namespace: place, Name: name}, d); err != nil {
		return err
	}
	if d.Status.Lease == nil {
		return errNotGiven
	}
	err := s.bed.Vault.Root.Sys().RevokeWithContext(ctx, d.Status.Lease.ID)
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return nil // PostgreSQL is away: Vault may have begun
	}
	return err
}
