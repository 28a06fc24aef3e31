package controllers

import (
	"context"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lifecycle"
)

// indexer adds indexes to a fake API server.
type indexer struct{ *clientfake.ClientBuilder }

func (i indexer) IndexField(_ context.Context, o client.Object, field string, of client.IndexerFunc) error {
	i.WithIndex(o, field, of)
	return nil
}

// reconcilerOn has only a cache.
func reconcilerOn(t *testing.T, stored ...client.Object) *DynamicSecretReconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := clientfake.NewClientBuilder().WithScheme(scheme).WithObjects(stored...)
	if err := lifecycle.AddIndexes(t.Context(), indexer{b}); err != nil {
		t.Fatal(err)
	}
	return &DynamicSecretReconciler{cache: b.Build()}
}

// object of a namespace that requests from cluster provider vault.
func object(namespace, name, target string) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	d.Spec.ProviderRef = &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}
	d.Spec.Target.Name = target
	return d
}

// names of the objects, sorted and without repetition.
func names(objects []v1alpha1.DynamicSecret) []string {
	var all []string
	for i := range objects {
		all = append(all, objects[i].Namespace+"/"+objects[i].Name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestSecretAffectsItsWriters(t *testing.T) {
	r := reconcilerOn(t, object("shop", "orders", "db"), object("shop", "rival", "db"),
		object("shop", "renamed", "other"),
		object("bank", "orders", "db"))
	secret := func(controllerKind, controller string) *metav1.PartialObjectMetadata {
		m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
		if controller != "" {
			m.OwnerReferences = []metav1.OwnerReference{{Kind: controllerKind, Name: controller, Controller: new(true)}}
		}
		return m
	}
	for _, c := range []struct {
		name, why string
		secret    client.Object
		want      []string
	}{
		{"every object with this target", "the Secret may be free now", secret("", ""),
			[]string{"shop/orders", "shop/rival"}},
		{"its controller, whose target was renamed", "it must delete this Secret", secret("DynamicSecret", "renamed"),
			[]string{"shop/orders", "shop/renamed", "shop/rival"}},
		{"a controller that no longer exists", "it is ignored", secret("DynamicSecret", "gone"),
			[]string{"shop/orders", "shop/rival"}},
		{"a controller of another kind", "it is ignored", secret("Deployment", "renamed"),
			[]string{"shop/orders", "shop/rival"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := names(r.writersOf(t.Context(), c.secret)); !slices.Equal(got, c.want) {
				t.Errorf("because %s: got %v, want %v", c.why, got, c.want)
			}
		})
	}
}

func TestProviderAffectsItsUsers(t *testing.T) {
	own := object("shop", "own", "")
	own.Spec.ProviderRef = &v1alpha1.ProviderReference{Name: "vault"}
	former := object("shop", "former", "")
	former.Spec.ProviderRef = &v1alpha1.ProviderReference{Name: "other"}
	former.Status.Retiring = []v1alpha1.LeaseRecord{
		{ID: "l", Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}},
	}
	r := reconcilerOn(t, object("shop", "orders", ""), object("bank", "orders", ""), own, former)
	for _, c := range []struct {
		provider client.Object
		want     []string
	}{
		{&v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault"}},
			[]string{"bank/orders", "shop/former", "shop/orders"}},
		{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "vault"}},
			[]string{"shop/own"}},
		{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "vault"}}, nil},
		{&v1alpha1.DynamicSecret{}, nil},
	} {
		if got := names(r.usersOf(t.Context(), c.provider)); !slices.Equal(got, c.want) {
			t.Errorf("%T %s: got %v, want %v", c.provider, c.provider.GetNamespace(), got, c.want)
		}
	}
}

func TestNamespaceAffectsItsObjects(t *testing.T) {
	r := reconcilerOn(t, object("shop", "orders", ""), object("shop", "other", ""), object("bank", "orders", ""))
	namespace := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if got := names(r.inNamespace(t.Context(), namespace)); !slices.Equal(got, []string{"shop/orders", "shop/other"}) {
		t.Errorf("got %v", got)
	}
}

func TestReadinessChanged(t *testing.T) {
	provider := func(modifiers ...func(*v1alpha1.SecretProvider)) *v1alpha1.SecretProvider {
		p := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", Generation: 1}}
		p.Status.ObservedGeneration = 1
		p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionTrue,
			Reason: v1alpha1.ReasonReachable, Message: "it responds"}}
		for _, m := range modifiers {
			m(p)
		}
		return p
	}
	ready := func(status metav1.ConditionStatus, message string) func(*v1alpha1.SecretProvider) {
		return func(p *v1alpha1.SecretProvider) {
			p.Status.Conditions[0].Status, p.Status.Conditions[0].Message = status, message
		}
	}
	down := ready(metav1.ConditionFalse, "it is unavailable")
	deleting := func(p *v1alpha1.SecretProvider) { p.DeletionTimestamp = &metav1.Time{Time: now} }
	changed := func(p *v1alpha1.SecretProvider) { p.Generation++ }
	for _, c := range []struct {
		name          string
		before, after *v1alpha1.SecretProvider
		want          bool
	}{
		{"nothing has changed", provider(), provider(), false},
		{"another message while ready", provider(), provider(ready(metav1.ConditionTrue, "it responds again")), false},
		{"the server's version", provider(), provider(func(p *v1alpha1.SecretProvider) {
			p.Status.Server = &v1alpha1.ServerStatus{Kind: "Vault", Version: "1.21.0"}
		}), false},
		{"no longer ready", provider(), provider(down), true},
		{"ready again", provider(down), provider(), true},
		{"another message while not ready",
			provider(down), provider(ready(metav1.ConditionFalse, "it is sealed")), true},
		{"another spec", provider(), provider(changed), true},
		{"the deletion began", provider(), provider(deleting), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			update := event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after}
			if got := readinessChanged.Update(update); got != c.want {
				t.Errorf("passed: %t, want %t", got, c.want)
			}
		})
	}
}

func TestDeletionBegan(t *testing.T) {
	alive := object("shop", "orders", "")
	deleting := alive.DeepCopy()
	deleting.DeletionTimestamp = &metav1.Time{Time: now}
	for _, c := range []struct {
		name          string
		before, after client.Object
		want          bool
	}{
		{"an update", alive, alive, false},
		{"the deletion began", alive, deleting, true},
		{"an update during the deletion", deleting, deleting, false},
	} {
		if got := deletionBegan.Update(event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after}); got != c.want {
			t.Errorf("%s: passed %t, want %t", c.name, got, c.want)
		}
	}
}

// kubectl replace removes the finalizer, and nothing else of the update need reach the queue.
func TestFinalizerRemoved(t *testing.T) {
	bare := object("shop", "orders", "")
	kept := bare.DeepCopy()
	kept.Finalizers = []string{"example.com/other", v1alpha1.Finalizer}
	for _, c := range []struct {
		name          string
		before, after client.Object
		want          bool
	}{
		{"it was removed", kept, bare, true},
		{"it was added", bare, kept, false},
		{"it is still there", kept, kept, false},
		{"it was never there", bare, bare, false},
	} {
		if got := finalizerRemoved.Update(event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after}); got != c.want {
			t.Errorf("%s: passed %t, want %t", c.name, got, c.want)
		}
	}
}

func TestOnlyDeleted(t *testing.T) {
	d := object("shop", "orders", "")
	for name, passed := range map[string]bool{
		"create":  onlyDeleted.Create(event.CreateEvent{Object: d}),
		"update":  onlyDeleted.Update(event.UpdateEvent{ObjectOld: d, ObjectNew: d}),
		"generic": onlyDeleted.Generic(event.GenericEvent{Object: d}),
	} {
		if passed {
			t.Errorf("%s is passed", name)
		}
	}
	if !onlyDeleted.Delete(event.DeleteEvent{Object: d}) {
		t.Error("delete is not passed: a terminating provider would wait for a ledger that is gone")
	}
}
