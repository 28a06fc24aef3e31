package lifecycle

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

var errHangs = errors.New("no response")

// A policy or a quota that rejects the key's Secret or strips it of its data, and a webhook that hangs, do not stop the
// manager. An unavailable API server does.
func TestRefusedSealKey(t *testing.T) {
	denied := apierrors.NewForbidden(corev1.Resource("secrets"), sealKeySecret, errors.New("exceeded quota"))
	unavailable := apierrors.NewServiceUnavailable("starting")
	for _, c := range []struct {
		name          string
		read, created error
		refused       bool
		change        func(*corev1.Secret)
	}{
		{"it is stored", nil, nil, false, nil},
		{"a policy or a quota", nil, denied, true, nil},
		{"a webhook that fails", nil, apierrors.NewInternalError(errors.New("failed calling webhook")), true, nil},
		{"a policy that strips the data", nil, nil, true, func(s *corev1.Secret) { s.Data = nil }},
		{"a policy that changes the key", nil, nil, true, func(s *corev1.Secret) { s.Data["key"] = []byte("short") }},
		{"no permission to read it", denied, nil, true, nil},
		{"a webhook that hangs", nil, errHangs, true, nil},
		{"a webhook that times out", nil, apierrors.NewTimeoutError("failed calling webhook", 1), true, nil},
		{"the API server starts", nil, unavailable, false, nil},
		{"the API server starts, at the read", unavailable, nil, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := interceptor.NewClient(clientfake.NewClientBuilder().Build(), interceptor.Funcs{
				Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, o client.Object,
					opts ...client.GetOption) error {
					if c.read != nil {
						return c.read
					}
					return w.Get(ctx, key, o, opts...)
				},
				Create: func(ctx context.Context, w client.WithWatch, o client.Object,
					opts ...client.CreateOption) error {
					if errors.Is(c.created, errHangs) {
						<-ctx.Done()
						return ctx.Err()
					}
					if c.created != nil {
						return c.created
					}
					if c.change != nil {
						c.change(o.(*corev1.Secret))
					}
					return w.Create(ctx, o, opts...)
				},
			})
			key, err := LoadSealKey(t.Context(), api, api, "leasekeeper-system", Patience{
				Request: 20 * time.Millisecond, Unanswered: 2, Pause: time.Millisecond, Total: time.Second,
			})
			failed := c.read != nil || c.created != nil || c.change != nil
			if errors.Is(err, ErrSealRefused) != c.refused || (err != nil) != failed || (len(key) > 0) == failed {
				t.Errorf("a key of %d bytes, %v", len(key), err)
			}
		})
	}
}

func TestOwnerOfARecordIsProvenByItsSeal(t *testing.T) {
	key := []byte("0123456789abcdef")
	d := &v1alpha1.DynamicSecret{}
	d.Namespace, d.Name, d.UID = "shop", "orders", "uid"
	rec := v1alpha1.LeaseRecord{Vault: &v1alpha1.VaultRecord{Path: "database/creds/orders", TokenAccessor: "acc"}}
	sealed, moved := rec, rec
	sealed.Seal = lease.Seal(key, d.UID, &sealed)
	moved.Seal = lease.Seal(key, "another object", &moved)
	for _, c := range []struct {
		it, because string
		key         []byte
		rec         v1alpha1.LeaseRecord
		proven      bool
	}{
		{"a sealed record", "leasekeeper wrote it", key, sealed, true},
		{"a record without a seal", "somebody else wrote it", key, rec, false},
		{"a record of another object", "somebody copied it", key, moved, false},
		{"a record while there is no key", "no record has a seal", nil, rec, true},
	} {
		l := &Lifecycle{sealKey: c.key}
		if got := l.ownerOf(d, &c.rec); got.Proven != c.proven || got.UID != "uid" {
			t.Errorf("%s, because %s: proven %t, want %t", c.it, c.because, got.Proven, c.proven)
		}
	}
}
