package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/lease"
)

var checkedAt = metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

type modifyDynamicSecret = func(*v1alpha1.DynamicSecret)

type modifyCluster = func(*v1alpha1.ClusterSecretProvider)

// stubDriver serves the vault block of providers. Errors are returned by the method of their name.
type stubDriver struct {
	// backends by the name of the provider; a provider without one gets an empty backend.
	backends map[string]backend.Backend
	// recoveries by the name of the provider.
	recoveries                              map[string]int64
	backendError, describeError, holdsError error
}

// stubBackend identifies the provider that it was made for. It has no methods.
type stubBackend struct {
	backend.Backend
	provider string
}

func (s *stubDriver) Backend(_ context.Context, p v1alpha1.Provider) (backend.Backend, error) {
	if b := s.backends[p.GetName()]; b != nil {
		return b, s.backendError
	}
	return stubBackend{provider: p.GetName()}, s.backendError
}

func (s *stubDriver) Describe(
	p v1alpha1.Provider, who backend.Identity, src v1alpha1.SecretSource,
) (v1alpha1.LeaseRecord, error) {
	digest := strings.Join([]string{"1:" + p.GetName(), src.Vault.Path, who.ServiceAccount}, " ")
	return v1alpha1.LeaseRecord{RequestDigest: digest, Vault: &v1alpha1.VaultRecord{Path: src.Vault.Path}},
		s.describeError
}

func (s *stubDriver) Holds(v1alpha1.Provider, *v1alpha1.LeaseRecord) error { return s.holdsError }

func (s *stubDriver) Recoveries(p v1alpha1.Provider) int64 { return s.recoveries[p.GetName()] }

func (*stubDriver) Forget(v1alpha1.Provider) {}

func (*stubDriver) Close(context.Context) error { return nil }

// registryOf makes a registry whose only driver is the stub.
func registryOf(d backend.Driver) *backend.Registry {
	r := backend.NewRegistry()
	r.Register("vault", d)
	return r
}

// clusterProvider is a cluster provider that is ready.
func clusterProvider(modifiers ...modifyCluster) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1", Generation: 4}}
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://vault.test:8200", KeeperAuth: &v1alpha1.VaultAuth{}}
	setReady(p, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it responds")
	for _, m := range modifiers {
		m(p)
	}
	return p
}

// ownProvider is a provider of namespace shop that is ready.
func ownProvider() *v1alpha1.SecretProvider {
	p := &v1alpha1.SecretProvider{}
	p.Namespace, p.Name, p.UID, p.Generation = "shop", "own", "provider-2", 1
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://own.test:8200"}
	setReady(p, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it responds")
	return p
}

// setReady sets the Ready condition of a provider.
func setReady(p v1alpha1.Provider, ready metav1.ConditionStatus, reason, message string) {
	p.ProviderStatus().ObservedGeneration = p.GetGeneration()
	meta.SetStatusCondition(&p.ProviderStatus().Conditions, metav1.Condition{Type: v1alpha1.ReadyCondition,
		Status: ready, Reason: reason, Message: message, LastTransitionTime: checkedAt})
}

// requesting is a DynamicSecret that requests database/creds/orders from cluster provider vault.
func requesting(modifiers ...modifyDynamicSecret) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1", CreationTimestamp: checkedAt},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
			Vault:       &v1alpha1.VaultRequest{Path: "database/creds/orders"},
		},
	}
	for _, m := range modifiers {
		m(d)
	}
	return d
}

// withSources replaces the short form by two sources: db of the object's provider, and kv of provider own.
func withSources(d *v1alpha1.DynamicSecret) {
	d.Spec.Vault = nil
	d.Spec.Sources = []v1alpha1.SecretSource{
		{Name: "db", Vault: &v1alpha1.VaultRequest{Path: "database/creds/orders"}},
		{Name: "kv", Vault: &v1alpha1.VaultRequest{Path: "secret/data/orders"},
			ProviderRef: &v1alpha1.ProviderReference{Name: "own"}},
	}
}

// indexing adds the indexes of AddIndexes to a fake API server.
type indexing struct{ *clientfake.ClientBuilder }

func (i indexing) IndexField(_ context.Context, o client.Object, field string, of client.IndexerFunc) error {
	i.WithIndex(o, field, of)
	return nil
}

// indexed is a fake API server with the indexes.
func indexed(t *testing.T, stored ...client.Object) *clientfake.ClientBuilder {
	t.Helper()
	b := apiServer(t, stored...)
	if err := AddIndexes(t.Context(), indexing{b}); err != nil {
		t.Fatal(err)
	}
	return b
}

// sourcesOn is providerSources on a fake API server.
func sourcesOn(t *testing.T, driver *stubDriver, stored ...client.Object) *providerSources {
	t.Helper()
	return &providerSources{clock: clock.RealClock{}, cache: indexed(t, stored...).Build(),
		backends: registryOf(driver), requestLimit: time.Minute, sealKey: []byte("0123456789abcdef")}
}

func TestCreatedBeforeIsAnOrder(t *testing.T) {
	created := func(after time.Duration, uid types.UID) *v1alpha1.DynamicSecret {
		return requesting(func(d *v1alpha1.DynamicSecret) {
			d.CreationTimestamp, d.UID = metav1.NewTime(checkedAt.Add(after)), uid
		})
	}
	for name, c := range map[string]struct{ first, other *v1alpha1.DynamicSecret }{
		"the one that was created first":                   {created(0, "b"), created(time.Second, "a")},
		"in the same second, the one with the smaller UID": {created(0, "a"), created(0, "b")},
	} {
		if !createdBefore(c.first, c.other) || createdBefore(c.other, c.first) {
			t.Errorf("%s has priority: if both objects wait, nothing writes the Secret", name)
		}
		if createdBefore(c.first, c.first) {
			t.Errorf("%s: an object was created before itself", name)
		}
	}
}

func TestNotReady(t *testing.T) {
	unavailable := func(p *v1alpha1.ClusterSecretProvider) {
		setReady(p, metav1.ConditionFalse, v1alpha1.ReasonBackendUnavailable, "it is unavailable")
	}
	stalled := func(p *v1alpha1.ClusterSecretProvider) {
		setReady(p, metav1.ConditionFalse, v1alpha1.ReasonLoginFailed, "correct the role")
		meta.SetStatusCondition(&p.Status.Conditions,
			metav1.Condition{Type: v1alpha1.StalledCondition, Status: metav1.ConditionTrue})
	}
	for _, c := range []struct {
		name, why string
		p         *v1alpha1.ClusterSecretProvider
		message   string // empty: it can be used
		stalled   bool
	}{
		{"ready", "it was checked", clusterProvider(), "", false},
		{"new", "nothing is known of it",
			clusterProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Status = v1alpha1.ProviderStatus{} }),
			"has not been checked yet.", false},
		{"ready with an earlier spec", "only a failed check blocks",
			clusterProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Generation++ }), "", false},
		{"not ready with an earlier spec", "the condition describes another spec",
			clusterProvider(stalled, func(p *v1alpha1.ClusterSecretProvider) { p.Generation++ }),
			"has not been checked yet.", false},
		{"not ready", "users of the object see the provider's message", clusterProvider(unavailable),
			"is not ready: it is unavailable", false},
		{"stalled", "its users are stalled too", clusterProvider(stalled), "is not ready: correct the role", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want *lease.Block
			if c.message != "" {
				want = &lease.Block{Reason: v1alpha1.ReasonProviderNotReady, Message: "Provider vault " + c.message,
					Stalled: c.stalled}
			}
			got := NotReady(c.p, "Provider vault")
			if (got == nil) != (want == nil) || got != nil && *got != *want {
				t.Errorf("because %s: got %+v, want %+v", c.why, got, want)
			}
		})
	}
}

func TestClusterProvidersAreNotServed(t *testing.T) {
	d := requesting()
	sources := sourcesOn(t, &stubDriver{}, d)
	sources.namespacedOnly = true
	r, err := sources.Resolve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	const want = "ClusterSecretProvider vault cannot be used, " +
		"because leasekeeper was installed without cluster kinds: " +
		"set spec.providerRef to a SecretProvider, or set scope.clusterKinds in leasekeeper's chart."
	if r.Block == nil || r.Block.Reason != v1alpha1.ReasonProviderNotFound || r.Block.Message != want {
		t.Errorf("blocked by %+v, want %q", r.Block, want)
	}
}

// Whatever else is wrong with the first source: its leases would be renewed.
func TestAnExclusionPrecedesOtherBlocks(t *testing.T) {
	d := requesting(withSources)
	slices.Reverse(d.Spec.Sources)
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	r, err := sourcesOn(t, &stubDriver{}, shop, clusterProvider(allow("bank")), d).Resolve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if got := reasonOf(r.Block); got != v1alpha1.ReasonNamespaceNotAllowed || !r.Block.Lapses {
		t.Errorf("blocked by %q, want %q", got, v1alpha1.ReasonNamespaceNotAllowed)
	}
}

// allow lets only the namespaces of the team use the provider.
func allow(team string) modifyCluster {
	return func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": team}},
		}
	}
}

// named lets the namespace use the provider, besides those that may already.
func named(namespace string) modifyCluster {
	return func(p *v1alpha1.ClusterSecretProvider) {
		if p.Spec.AllowedNamespaces == nil {
			p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{}
		}
		p.Spec.AllowedNamespaces.Names = append(p.Spec.AllowedNamespaces.Names, namespace)
	}
}

func TestResolveReportsTheFirstBlock(t *testing.T) {
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}}
	allowed, excluded := allow("shop"), allow("bank")
	broken := func(p *v1alpha1.ClusterSecretProvider) {
		allowed(p)
		p.Spec.AllowedNamespaces.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{
			{Key: "team", Operator: "Sometimes"},
		}
	}
	everywhere := func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: &metav1.LabelSelector{}}
	}
	deleting := func(p *v1alpha1.ClusterSecretProvider) {
		p.Finalizers, p.DeletionTimestamp = []string{v1alpha1.ProviderFinalizer}, &checkedAt
	}
	unchecked := func(p *v1alpha1.ClusterSecretProvider) { p.Status = v1alpha1.ProviderStatus{} }
	blockless := func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault = nil }
	noAccount := &stubDriver{describeError: backend.Errorf(backend.NoServiceAccount, "name a ServiceAccount")}
	noMaterial := &stubDriver{backendError: backend.Errorf(backend.TLS, "the bundle is empty")}
	for _, c := range []struct {
		name, why string
		driver    *stubDriver
		stored    []client.Object
		reason    string // empty: nothing blocks
	}{
		{"everything exists", "nothing blocks", nil, []client.Object{clusterProvider()}, ""},
		{"no provider", "there is nothing to request from", nil, nil, v1alpha1.ReasonProviderNotFound},
		{"a provider of another kind", "names are unique within a kind", nil,
			[]client.Object{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "vault"}}},
			v1alpha1.ReasonProviderNotFound},
		{"an allowed namespace", "its labels match", nil, []client.Object{shop, clusterProvider(allowed)}, ""},
		{"an excluded namespace", "its labels do not match", nil, []client.Object{shop, clusterProvider(excluded)},
			v1alpha1.ReasonNamespaceNotAllowed},
		{"a namespace in names", "its labels do not matter", nil,
			[]client.Object{shop, clusterProvider(named("shop"))}, ""},
		{"a namespace that is not in names", "no selector matches nothing", nil,
			[]client.Object{shop, clusterProvider(named("shops"))}, v1alpha1.ReasonNamespaceNotAllowed},
		{"a namespace in names, and an excluding selector", "one of the two is enough", nil,
			[]client.Object{shop, clusterProvider(excluded, named("shop"))}, ""},
		{"a matching selector, and other names", "one of the two is enough", nil,
			[]client.Object{shop, clusterProvider(allowed, named("bank"))}, ""},
		{"an empty selector", "it matches all", nil, []client.Object{shop, clusterProvider(everywhere)}, ""},
		{"an invalid selector", "it allows nothing", nil, []client.Object{shop, clusterProvider(broken)},
			v1alpha1.ReasonNamespaceNotAllowed},
		{"an excluded namespace and other problems", "it learns nothing else about the provider", noAccount,
			[]client.Object{shop, clusterProvider(excluded, deleting, unchecked)}, v1alpha1.ReasonNamespaceNotAllowed},
		{"a provider that is being deleted", "it accepts no new leases", noAccount,
			[]client.Object{clusterProvider(deleting, unchecked)}, v1alpha1.ReasonProviderDeleting},
		{"no ServiceAccount", "nothing can log in", noAccount, []client.Object{clusterProvider(unchecked)},
			v1alpha1.ReasonServiceAccountNotFound},
		{"a provider that was not checked", "what cannot be revoked must not be issued", noMaterial,
			[]client.Object{clusterProvider(unchecked)}, v1alpha1.ReasonProviderNotReady},
		{"a provider without usable TLS material", "the driver cannot connect", noMaterial,
			[]client.Object{clusterProvider()}, v1alpha1.ReasonTLSFailed},
		{"a provider of an unknown backend", "a newer version of leasekeeper may know it", nil,
			[]client.Object{clusterProvider(blockless)}, v1alpha1.ReasonInvalidSpec},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, driver := requesting(), c.driver
			if driver == nil {
				driver = &stubDriver{}
			}
			r, err := sourcesOn(t, driver, append(c.stored, d)...).Resolve(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if got := reasonOf(r.Block); got != c.reason {
				t.Errorf("because %s: blocked by %q, want %q", c.why, got, c.reason)
			}
		})
	}
}

func reasonOf(b *lease.Block) string {
	if b == nil {
		return ""
	}
	return b.Reason
}

// The reconciler takes NotFound for a DynamicSecret that was deleted.
func TestResolveRetriesWithoutTheNamespace(t *testing.T) {
	d := requesting()
	for _, c := range []struct {
		name, why string
		get       error // of the Namespace; nil: the cache does not have it
	}{
		{"it is not in the cache", "the cache is behind", nil},
		{"the cache cannot be read", "nothing is known of the namespace", errors.New("the cache has not started")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sourcesOn(t, &stubDriver{}, clusterProvider(allow("shop")), d)
			if c.get != nil {
				s.cache = namespaceError{s.cache, c.get}
			}
			r, err := s.Resolve(t.Context(), d)
			if err == nil || apierrors.IsNotFound(err) || r != nil {
				t.Errorf("because %s: got %+v, %v, want an error that is retried", c.why, r, err)
			}
			if c.get != nil && !errors.Is(err, c.get) {
				t.Errorf("because %s: got %v, want %v", c.why, err, c.get)
			}
		})
	}
}

// namespaceError is a cache that cannot read Namespaces.
type namespaceError struct {
	client.Reader
	err error
}

func (c namespaceError) Get(
	ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption,
) error {
	if o.GetObjectKind().GroupVersionKind().Kind == "Namespace" {
		return c.err
	}
	return c.Reader.Get(ctx, key, o, opts...)
}

// A rival is another object with the same target.
func TestResolveLetsOneOfTwoRivalsIssue(t *testing.T) {
	created := func(after time.Duration) modifyDynamicSecret {
		return func(d *v1alpha1.DynamicSecret) { d.CreationTimestamp = metav1.NewTime(checkedAt.Add(after)) }
	}
	older, younger := created(-time.Hour), created(time.Hour)
	written := func(d *v1alpha1.DynamicSecret) { d.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", UID: "s"} }
	intended := func(d *v1alpha1.DynamicSecret) { d.Status.Secret = &v1alpha1.SecretStatus{Name: "orders"} }
	former := func(d *v1alpha1.DynamicSecret) { d.Status.Secret = &v1alpha1.SecretStatus{Name: "former", UID: "s"} }
	elsewhere := func(d *v1alpha1.DynamicSecret) { d.Namespace = "bank" }
	for _, c := range []struct {
		name, why string
		d         *v1alpha1.DynamicSecret
		rival     []modifyDynamicSecret
		blocked   bool
	}{
		{"an older rival", "it was first", requesting(), []modifyDynamicSecret{older}, true},
		{"a younger rival", "this object was first", requesting(), []modifyDynamicSecret{younger}, false},
		{"a younger rival that has the Secret", "it keeps the Secret", requesting(),
			[]modifyDynamicSecret{younger, written}, true},
		{"a younger rival that is about to write", "it does not have the Secret yet", requesting(),
			[]modifyDynamicSecret{younger, intended}, false},
		{"a younger rival whose target was renamed", "it has another Secret", requesting(),
			[]modifyDynamicSecret{younger, former}, false},
		{"an older rival of this Secret's owner", "this object keeps the Secret", requesting(written),
			[]modifyDynamicSecret{older}, false},
		{"an older rival in another namespace", "Secrets have namespaces", requesting(),
			[]modifyDynamicSecret{older, elsewhere}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rival := requesting(append([]modifyDynamicSecret{func(d *v1alpha1.DynamicSecret) {
				d.Name, d.UID, d.Spec.Target.Name = "rival", "uid-2", "orders"
			}}, c.rival...)...)
			r, err := sourcesOn(t, &stubDriver{}, clusterProvider(), c.d, rival).Resolve(t.Context(), c.d)
			if err != nil {
				t.Fatal(err)
			}
			if (reasonOf(r.Block) == v1alpha1.ReasonTargetConflict) != c.blocked {
				t.Errorf("because %s: got %+v, want it blocked: %t", c.why, r.Block, c.blocked)
			}
			if c.blocked && !strings.Contains(r.Block.Message, "DynamicSecret rival") {
				t.Errorf("the message does not name the rival: %q", r.Block.Message)
			}
		})
	}
}

func TestResolveOneSource(t *testing.T) {
	d := requesting(func(d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "app" })
	r, err := sourcesOn(t, &stubDriver{}, clusterProvider(), d).Resolve(t.Context(), d)
	if err != nil || len(r.Sources) != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	src := r.Sources[0]
	who := backend.Identity{Namespace: "shop", ServiceAccount: "app", MinTTL: time.Minute,
		Owner: backend.Owner{Namespace: "shop", Name: "orders", UID: "uid-1"}}
	if src.Identity != who {
		t.Errorf("logs in as %+v, want %+v: the session must outlive the request limit", src.Identity, who)
	}
	provider := v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"}
	if src.Record.Provider != provider || src.Record.Source != "" || src.Record.Location() != "database/creds/orders" {
		t.Errorf("the record is %+v", src.Record)
	}
	if src.Record.RequestDigest != "1:vault database/creds/orders app" {
		t.Errorf("without a selection the digest is the driver's, got %q", src.Record.RequestDigest)
	}
	if b, ok := src.Backend.(stubBackend); !ok || b.provider != "vault" {
		t.Errorf("the backend is %+v", src.Backend)
	}
}

// The message about a missing provider names one of the other kind, unless it excludes the namespace.
func TestMissingProviderOfAnotherKind(t *testing.T) {
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	namespaced := func(d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Kind = "" }
	own := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "vault"}}
	elsewhere := &v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "vault"}}
	plain := func(d *v1alpha1.DynamicSecret) {}
	for _, c := range []struct {
		name    string
		request func(*v1alpha1.DynamicSecret)
		stored  []client.Object
		want    string
	}{
		{"neither exists", namespaced, nil,
			"SecretProvider vault does not exist: create it, or correct spec.providerRef."},
		{"the kind was forgotten", namespaced, []client.Object{clusterProvider()},
			"SecretProvider vault does not exist, " +
				"but ClusterSecretProvider vault does: set spec.providerRef.kind to ClusterSecretProvider."},
		{"the kind is wrong", plain, []client.Object{own}, "ClusterSecretProvider vault does not exist, " +
			"but SecretProvider vault does: set spec.providerRef.kind to SecretProvider."},
		{"it is in another namespace", plain, []client.Object{elsewhere},
			"ClusterSecretProvider vault does not exist: create it, or correct spec.providerRef."},
		{"it excludes the namespace", namespaced, []client.Object{shop, clusterProvider(allow("bank"))},
			"SecretProvider vault does not exist: create it, or correct spec.providerRef."},
	} {
		d := requesting(c.request)
		r, err := sourcesOn(t, &stubDriver{}, append(c.stored, d)...).Resolve(t.Context(), d)
		if err != nil || r.Block == nil || r.Block.Message != c.want {
			t.Errorf("%s: %+v, %v", c.name, r.Block, err)
		}
	}
}

func TestResolveSeveralSources(t *testing.T) {
	unchecked := ownProvider()
	unchecked.Generation++
	unchecked.Status = v1alpha1.ProviderStatus{}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	const db, kv = "1:vault database/creds/orders ", "1:own secret/data/orders "
	for _, c := range []struct {
		name, why  string
		stored     []client.Object
		reason     string
		digests    []string
		recoveries int64
		revision   string
	}{
		{"both can be used", "revisions and recoveries of both count",
			[]client.Object{clusterProvider(), ownProvider()},
			"", []string{db, kv}, 7, "provider-1/4/3 provider-2/1/4 "},
		{"the second provider is missing", "only its digest is unknown", []client.Object{clusterProvider()},
			v1alpha1.ReasonProviderNotFound, []string{db, ""}, 3, "provider-1/4/3 "},
		{"the first provider is missing", "only its digest is unknown", []client.Object{ownProvider()},
			v1alpha1.ReasonProviderNotFound, []string{"", kv}, 4, "provider-2/1/4 "},
		{"both are missing", "no digest is known", nil, v1alpha1.ReasonProviderNotFound, []string{"", ""}, 0, ""},
		{"both are blocked", "the first block is reported, and both digests are known",
			[]client.Object{shop, clusterProvider(allow("bank")), unchecked}, v1alpha1.ReasonNamespaceNotAllowed,
			[]string{db, kv}, 7, "provider-1/4/3 provider-2/2/4 "},
		{"the second is blocked", "its block is reported", []client.Object{clusterProvider(), unchecked},
			v1alpha1.ReasonProviderNotReady, []string{db, kv}, 7, "provider-1/4/3 provider-2/2/4 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := requesting(withSources)
			driver := &stubDriver{recoveries: map[string]int64{"vault": 3, "own": 4}}
			r, err := sourcesOn(t, driver, append(c.stored, d)...).Resolve(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			var names, digests []string
			for _, src := range r.Sources {
				names, digests = append(names, src.Spec.Name), append(digests, src.Record.RequestDigest)
				if src.Record.Source != src.Spec.Name {
					t.Errorf("the record of source %s names source %q", src.Spec.Name, src.Record.Source)
				}
			}
			if got := reasonOf(r.Block); got != c.reason || r.Recoveries != c.recoveries || r.Revision != c.revision {
				t.Errorf("because %s: blocked by %q, recoveries %d, revision %q; want %q, %d, %q",
					c.why, got, r.Recoveries, r.Revision, c.reason, c.recoveries, c.revision)
			}
			if !slices.Equal(digests, c.digests) || !slices.Equal(names, []string{"db", "kv"}) {
				t.Errorf("because %s: digests %q of %v, want %q", c.why, digests, names, c.digests)
			}
		})
	}
}

// The revision makes leasekeeper try again at once after a person has changed a provider, or after an outage.
func TestResolveRevision(t *testing.T) {
	revision := func(recoveries int64, modifiers ...modifyCluster) string {
		d := requesting()
		driver := &stubDriver{recoveries: map[string]int64{"vault": recoveries}}
		r, err := sourcesOn(t, driver, clusterProvider(modifiers...), d).Resolve(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return r.Revision
	}
	base := revision(0)
	for name, other := range map[string]string{
		"another spec":     revision(0, func(p *v1alpha1.ClusterSecretProvider) { p.Generation++ }),
		"another provider": revision(0, func(p *v1alpha1.ClusterSecretProvider) { p.UID = "restored" }),
		"a recovery":       revision(1),
	} {
		if other == base {
			t.Errorf("%s does not change the revision %q", name, base)
		}
	}
	same := revision(0, func(p *v1alpha1.ClusterSecretProvider) {
		setReady(p, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it still responds")
	})
	if same != base {
		t.Errorf("a status write changes the revision from %q to %q", base, same)
	}
}

func TestOnlyTheTypeWithAFormOfItsOwnChangesTheDigest(t *testing.T) {
	const digest = "2:0123"
	if got := withType(digest, corev1.SecretTypeOpaque); got != digest {
		t.Errorf("the digest of an Opaque Secret becomes %q", got)
	}
	if got := withType("", corev1.SecretTypeTLS); got != "" {
		t.Errorf("an unknown digest becomes %q", got)
	}
	if got := withType(digest, corev1.SecretTypeTLS); got == digest || got[:2] != "2:" {
		t.Errorf("the digest of a TLS Secret is %q", got)
	}
}

func TestOnlyATLSSecretGetsTheKeysOfItsForm(t *testing.T) {
	response := backend.Response{
		Data: map[string][]byte{"certificate": []byte("c"), "private_key": []byte("k"), "tls.key": []byte("own")},
		Forms: map[corev1.SecretType]map[string][]byte{
			corev1.SecretTypeTLS: {"tls.crt": []byte("c"), "tls.key": []byte("k")},
		},
	}
	d := &v1alpha1.DynamicSecret{}
	if part := selected(d, v1alpha1.SecretSource{}, response); len(part.Data) != 3 {
		t.Errorf("an Opaque Secret gets %v", part.Data)
	}
	d.Spec.Target.Type = string(corev1.SecretTypeTLS)
	d.Spec.Target.Fields = &v1alpha1.FieldSelection{Exclude: []string{"private_key"}}
	part := selected(d, v1alpha1.SecretSource{}, response)
	if len(part.Data) != 3 || string(part.Data["tls.key"]) != "own" || string(part.Data["tls.crt"]) != "c" {
		t.Errorf("a TLS Secret gets %v", part.Data)
	}
}

func TestWithFields(t *testing.T) {
	type selection = v1alpha1.FieldSelection
	const digest = "2:0123"
	all := map[string]string{"no selection": withFields(digest, nil, nil)}
	if all["no selection"] != digest {
		t.Errorf("without a selection the digest becomes %q: an upgrade would replace every credential",
			all["no selection"])
	}
	if got := withFields("", &selection{Prefix: "A"}); got != "" {
		t.Errorf("an unknown digest becomes %q", got)
	}
	a, b := &selection{Include: []string{"a"}}, &selection{Include: []string{"b"}}
	for name, got := range map[string]string{
		"include on the source":          withFields(digest, a, nil),
		"another include":                withFields(digest, b, nil),
		"the same include on the target": withFields(digest, nil, a),
		"on both":                        withFields(digest, a, b),
		"on both, swapped":               withFields(digest, b, a),
		"exclude":                        withFields(digest, &selection{Exclude: []string{"a"}}, nil),
		"a prefix":                       withFields(digest, &selection{Prefix: "a"}, nil),
		"another digest":                 withFields("2:4567", a, nil),
	} {
		for other, taken := range all {
			if got == taken {
				t.Errorf("%s and %s have the same digest %q", name, other, got)
			}
		}
		if !strings.HasPrefix(got, "2:") {
			t.Errorf("%s: the digest %q does not start with the version of its format", name, got)
		}
		all[name] = got
	}
}

// Each of these changes would replace every credential of the object, and give the same Secret.
func TestWithFieldsIgnoresEqualSelections(t *testing.T) {
	type selection = v1alpha1.FieldSelection
	const digest = "2:0123"
	for name, c := range map[string][2]*selection{
		"an empty selection":        {nil, {}},
		"empty lists":               {nil, {Include: []string{}, Exclude: []string{}}},
		"include in another order":  {{Include: []string{"a", "b"}}, {Include: []string{"b", "a"}}},
		"exclude in another order":  {{Exclude: []string{"a", "b"}}, {Exclude: []string{"b", "a"}}},
		"an empty list and no list": {{Prefix: "A", Include: []string{}}, {Prefix: "A"}},
	} {
		if before, after := withFields(digest, c[0], nil), withFields(digest, c[1], nil); before != after {
			t.Errorf("%s changes the digest of the source from %q to %q", name, before, after)
		}
		if before, after := withFields(digest, nil, c[0]), withFields(digest, nil, c[1]); before != after {
			t.Errorf("%s changes the digest of the target from %q to %q", name, before, after)
		}
	}
	unsorted := &selection{Include: []string{"b", "a"}}
	if withFields(digest, unsorted); unsorted.Include[0] != "b" {
		t.Error("the spec was sorted, although the cache shares it")
	}
}

func TestResolveAddsTheSelectionsToTheDigests(t *testing.T) {
	digests := func(modifiers ...modifyDynamicSecret) [2]string {
		d := requesting(append([]modifyDynamicSecret{withSources}, modifiers...)...)
		r, err := sourcesOn(t, &stubDriver{}, clusterProvider(), ownProvider(), d).Resolve(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{r.Sources[0].Record.RequestDigest, r.Sources[1].Record.RequestDigest}
	}
	base := digests()
	prefix := &v1alpha1.FieldSelection{Prefix: "APP_"}
	source := digests(func(d *v1alpha1.DynamicSecret) { d.Spec.Sources[1].Fields = prefix })
	if source[0] != base[0] || source[1] == base[1] {
		t.Errorf("a selection on the second source: %q, before %q", source, base)
	}
	target := digests(func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Fields = prefix })
	if target[0] == base[0] || target[1] == base[1] {
		t.Errorf("a selection on the target: %q, before %q", target, base)
	}
}

func TestBackendFor(t *testing.T) {
	elsewhere := &stubDriver{holdsError: backend.Errorf(backend.Misconfigured, "the record is of another server")}
	unusable := &stubDriver{backendError: backend.Errorf(backend.TLS, "the bundle is empty")}
	for _, c := range []struct {
		name, why string
		driver    *stubDriver
		provider  v1alpha1.ProviderIdentity
		want      backend.ErrorKind
	}{
		{"at its provider", "it lives there", &stubDriver{},
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"}, ""},
		{"at a provider that was restored", "its name and address identify it", &stubDriver{},
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "before"}, ""},
		{"at a provider of the namespace", "its kind is SecretProvider", &stubDriver{},
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindNamespaced, Name: "own"}, ""},
		{"without a provider", "it may be created again", &stubDriver{},
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "gone"}, backend.Unavailable},
		{"at another server", "that server would report the lease as gone, and it would be lost", elsewhere,
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}, backend.Misconfigured},
		{"at a provider without usable TLS material", "the driver's error is returned", unusable,
			v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}, backend.TLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := &v1alpha1.LeaseRecord{ID: "l", Provider: c.provider}
			s := sourcesOn(t, c.driver, clusterProvider(), ownProvider())
			b, err := s.BackendFor(t.Context(), requesting(), rec)
			if err == nil && (c.want != "" || b.(stubBackend).provider != c.provider.Name) {
				t.Errorf("because %s: got %+v, want error %q", c.why, b, c.want)
			}
			if err != nil && backend.KindOf(err) != c.want {
				t.Errorf("because %s: got %v, want error %q", c.why, err, c.want)
			}
		})
	}
}

// vaultRecord is a record of cluster provider vault.
func vaultRecord(id, accessor string, modifiers ...func(*v1alpha1.LeaseRecord)) v1alpha1.LeaseRecord {
	rec := v1alpha1.LeaseRecord{ID: id, Kind: v1alpha1.ResponseLeased,
		Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
		Vault: &v1alpha1.VaultRecord{Address: "https://vault.test:8200", Path: "database/creds/orders",
			TokenAccessor: accessor}}
	for _, m := range modifiers {
		m(&rec)
	}
	return rec
}

func TestDisputed(t *testing.T) {
	leases := func(records ...v1alpha1.LeaseRecord) v1alpha1.DynamicSecretStatus {
		return v1alpha1.DynamicSecretStatus{Leases: records}
	}
	attempt := func(records ...v1alpha1.LeaseRecord) v1alpha1.DynamicSecretStatus {
		return v1alpha1.DynamicSecretStatus{Attempt: &v1alpha1.IssuanceAttempt{Records: records}}
	}
	at := func(address string) func(*v1alpha1.LeaseRecord) {
		return func(r *v1alpha1.LeaseRecord) { r.Vault.Address = address }
	}
	provider := func(name string) func(*v1alpha1.LeaseRecord) {
		return func(r *v1alpha1.LeaseRecord) { r.Provider.Name = name }
	}
	for _, c := range []struct {
		name, why string
		theirs    v1alpha1.DynamicSecretStatus
		disputed  bool
	}{
		{"the same lease and session", "somebody else wrote one of the two", leases(vaultRecord("l", "a")), true},
		{"the same lease", "revoking it would revoke theirs", leases(vaultRecord("l", "b")), true},
		{"the same session", "revoking it would revoke their lease", leases(vaultRecord("m", "a")), true},
		{"the same lease in a set", "every record counts", leases(vaultRecord("m", "b"), vaultRecord("l", "c")), true},
		{"the same session in an attempt", "its lease is being issued",
			attempt(vaultRecord("", "b"), vaultRecord("", "a")), true},
		{"the same lease, retiring", "the other object revokes it",
			v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{vaultRecord("l", "b")}}, true},
		{"the same lease at another provider", "two providers may be the same server",
			leases(vaultRecord("l", "a", provider("other"))), true},
		{"the same lease at an address with a slash", "it is the same server",
			leases(vaultRecord("l", "b", at("https://vault.test:8200/"))), true},
		{"the same session at an address with a slash", "it is the same server",
			leases(vaultRecord("m", "a", at("https://vault.test:8200/"))), true},
		{"another lease and session", "this is the usual case", leases(vaultRecord("m", "b")), false},
		{"the same names at another address", "there they name something else",
			leases(vaultRecord("l", "a", at("https://other.test:8200"))), false},
		{"no lease and no session", "an empty id is no name", attempt(vaultRecord("", "")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			mine := vaultRecord("l", "a")
			other := ledgerOf("other", c.theirs)
			other.Namespace, other.UID = "bank", "uid-2"
			d := requesting(func(d *v1alpha1.DynamicSecret) { d.Status = leases(mine) })
			err := sourcesOn(t, &stubDriver{}, d, other).Disputed(t.Context(), d, &mine)
			if (err != nil) != c.disputed {
				t.Fatalf("because %s: got %v, want a dispute: %t", c.why, err, c.disputed)
			}
			if err != nil && (backend.KindOf(err) != backend.Disputed || !strings.Contains(err.Error(), "bank/other")) {
				t.Errorf("because %s: the error is %v", c.why, err)
			}
		})
	}
}

// Without a key there are no seals, so only the ledgers say whose a certificate is.
// Another object with the user is found in every namespace.
func TestSharers(t *testing.T) {
	withUser := func(id, user string) v1alpha1.LeaseRecord {
		return vaultRecord(id, id, func(r *v1alpha1.LeaseRecord) { r.UserDigest = user })
	}
	other := ledgerOf("other", v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{withUser("theirs", "app")}})
	other.Namespace, other.UID = "bank", "uid-2"
	d := requesting()
	mine, unique := withUser("mine", "app"), withUser("unique", "v-123")
	want := map[string]string{lease.Key(&mine): "bank/other"}
	s := sourcesOn(t, &stubDriver{}, d, other)
	if got := s.Sharers(t.Context(), d); len(got) > 0 {
		t.Errorf("without records: %v", got)
	}
	d.Status.Retiring = []v1alpha1.LeaseRecord{mine, unique}
	if got := s.Sharers(t.Context(), d); !maps.Equal(got, want) {
		t.Errorf("of retiring records: %v", got)
	}
	d.Status.Retiring, d.Status.Leases = nil, []v1alpha1.LeaseRecord{mine, unique}
	if got := s.Sharers(t.Context(), d); len(got) > 0 {
		t.Errorf("of leases that are not revoked: %v", got)
	}
	d.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	if got := s.Sharers(t.Context(), d); !maps.Equal(got, want) {
		t.Errorf("in a deletion: %v", got)
	}
}

func TestDisputedCertificates(t *testing.T) {
	certificate := func(path, serial string) v1alpha1.LeaseRecord {
		return vaultRecord("", "", func(r *v1alpha1.LeaseRecord) {
			r.Kind, r.Revocable = v1alpha1.ResponseExpiring, true
			r.Vault.Path, r.Vault.SerialNumber = path, serial
		})
	}
	for _, c := range []struct {
		name, why    string
		mine, theirs v1alpha1.LeaseRecord
		disputed     bool
	}{
		{"of one path", "one of the records is forged",
			certificate("pki/issue/a", "11:22"), certificate("pki/issue/a", "11:22"), true},
		{"of two roles", "they are of one engine",
			certificate("pki/issue/a", "11:22"), certificate("pki/sign/b", "11:22"), true},
		{"of an issuer", "it is one of the engine",
			certificate("pki/issuer/old/issue/a", "11:22"), certificate("pki/sign-verbatim", "11:22"), true},
		{"with another number", "this is the usual case",
			certificate("pki/issue/a", "11:22"), certificate("pki/issue/a", "11:33"), false},
	} {
		other := ledgerOf("other", v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{c.theirs}})
		other.Namespace, other.UID = "bank", "uid-2"
		d := requesting()
		s := sourcesOn(t, &stubDriver{}, d, other)
		s.sealKey = nil
		err := s.Disputed(t.Context(), d, &c.mine)
		if c.disputed != (err != nil && backend.KindOf(err) == backend.Disputed) {
			t.Errorf("%s, because %s: got %v, want a dispute: %t", c.name, c.why, err, c.disputed)
		}
	}
}

// A seal shows which of two records leasekeeper wrote.
func TestDisputedWithSeals(t *testing.T) {
	for _, c := range []struct {
		name, why    string
		mine, theirs bool // the record has a valid seal
		disputed     bool
	}{
		{"no seals", "nothing shows who wrote them", false, false, true},
		{"only mine", "somebody else wrote the other record", true, false, false},
		{"only theirs", "somebody else wrote this record", false, true, true},
		{"both", "leasekeeper alone can do that, and never does", true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sourcesOn(t, &stubDriver{})
			mine, theirs := vaultRecord("l", "a"), vaultRecord("l", "a")
			if c.mine {
				mine.Seal = lease.Seal(s.sealKey, "uid-1", &mine)
			}
			theirs.Seal = lease.Seal(s.sealKey, "uid-1", &theirs) // copied: valid for another object only
			if c.theirs {
				theirs.Seal = lease.Seal(s.sealKey, "uid-2", &theirs)
			}
			other := ledgerOf("other", v1alpha1.DynamicSecretStatus{Leases: []v1alpha1.LeaseRecord{theirs}})
			other.UID = "uid-2"
			d := requesting(func(d *v1alpha1.DynamicSecret) { d.Status.Leases = []v1alpha1.LeaseRecord{mine} })
			s.cache = indexed(t, d, other).Build()
			if err := s.Disputed(t.Context(), d, &mine); (err != nil) != c.disputed {
				t.Errorf("because %s: got %v, want a dispute: %t", c.why, err, c.disputed)
			}
			s.sealKey = nil
			if err := s.Disputed(t.Context(), d, &mine); err == nil {
				t.Error("without a key no seal is valid, so the records are disputed")
			}
		})
	}
}

// Nothing in the backend says whose certificate it is, so a lost key abandons the certificates issued before.
func TestCertificateWithoutASealIsNotRevoked(t *testing.T) {
	for _, c := range []struct {
		name         string
		sealed, keys bool
		refused      bool
	}{
		{"a record with a seal", true, true, false},
		{"a record without one, or with one of another key", false, true, true},
		{"leasekeeper runs without a key", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sourcesOn(t, &stubDriver{})
			rec := vaultRecord("", "")
			rec.Vault.Path, rec.Vault.SerialNumber = "pki/issue/web", "17:67"
			if c.sealed {
				rec.Seal = lease.Seal(s.sealKey, "uid-1", &rec)
			} else {
				rec.Seal = lease.Seal([]byte("the key before"), "uid-1", &rec)
			}
			if !c.keys {
				s.sealKey = nil
			}
			d := requesting(func(d *v1alpha1.DynamicSecret) { d.Status.Leases = []v1alpha1.LeaseRecord{rec} })
			s.cache = indexed(t, d).Build()
			err := s.Disputed(t.Context(), d, &rec)
			if refused := err != nil && backend.KindOf(err) == backend.Mismatch; refused != c.refused {
				t.Errorf("got %v, want a refusal: %t", err, c.refused)
			}
		})
	}
}

func TestIndexes(t *testing.T) {
	of := func(kind, name string) func(*v1alpha1.LeaseRecord) {
		return func(r *v1alpha1.LeaseRecord) { r.Provider.Kind, r.Provider.Name = kind, name }
	}
	slash := func(r *v1alpha1.LeaseRecord) { r.Vault.Address += "/" }
	d := requesting(withSources, func(d *v1alpha1.DynamicSecret) {
		d.Spec.Target.Name = "db"
		d.Status.Attempt = &v1alpha1.IssuanceAttempt{Records: []v1alpha1.LeaseRecord{vaultRecord("", "a", slash)}}
		d.Status.Leases = []v1alpha1.LeaseRecord{vaultRecord("l", "b", of(v1alpha1.ProviderKindCluster, "former"))}
		d.Status.Retiring = []v1alpha1.LeaseRecord{vaultRecord("m", "", of(v1alpha1.ProviderKindNamespaced, "former"))}
	})
	cache := indexed(t, d).Build()
	for _, c := range []struct {
		index, key string
		found      bool
	}{
		{indexTarget, "db", true},
		{indexTarget, "orders", false},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindCluster, "vault", "shop"), true},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindNamespaced, "own", "shop"), true},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindNamespaced, "own", "bank"), false},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindNamespaced, "vault", "shop"), false},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindCluster, "former", ""), true},
		{IndexProvider, ProviderKey(v1alpha1.ProviderKindNamespaced, "former", "shop"), true},
	} {
		var list v1alpha1.DynamicSecretList
		if err := cache.List(t.Context(), &list, client.MatchingFields{c.index: c.key}); err != nil {
			t.Fatal(err)
		}
		if found := len(list.Items) > 0; found != c.found {
			t.Errorf("index %s, key %s: found %t, want %t", c.index, c.key, found, c.found)
		}
	}
}

func TestGetProvider(t *testing.T) {
	cache := indexed(t, clusterProvider(), ownProvider()).Build()
	for _, c := range []struct{ kind, name, namespace, want string }{
		{v1alpha1.ProviderKindCluster, "vault", "shop", "provider-1"},
		{v1alpha1.ProviderKindNamespaced, "own", "shop", "provider-2"},
		{v1alpha1.ProviderKindNamespaced, "own", "bank", ""},
		{v1alpha1.ProviderKindNamespaced, "vault", "shop", ""},
	} {
		p, err := GetProvider(t.Context(), cache, c.kind, c.name, c.namespace)
		if got := string(p.GetUID()); (err == nil) != (c.want != "") || got != c.want {
			t.Errorf("%s: UID %q, %v, want %q", fmt.Sprint(c.kind, " ", c.namespace, "/", c.name), got, err, c.want)
		}
	}
}

func TestWriters(t *testing.T) {
	named := func(name, target string) *v1alpha1.DynamicSecret {
		d := requesting(func(d *v1alpha1.DynamicSecret) { d.Name, d.Spec.Target.Name = name, target })
		d.UID = types.UID(name)
		return d
	}
	elsewhere := named("db", "")
	elsewhere.Namespace = "bank"
	cache := indexed(t, named("db", ""), named("orders", "db"), named("same", "same"), named("moved", "other"),
		elsewhere).Build()
	for secret, want := range map[string][]string{
		"db": {"orders", "db"}, "same": {"same"}, "moved": nil, "other": {"moved"}, "orders": nil, "none": nil,
	} {
		writers, err := Writers(t.Context(), cache, "shop", secret)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range writers {
			got = append(got, string(writers[i].UID))
		}
		if !slices.Equal(got, want) {
			t.Errorf("Secret %s: written by %v, want %v", secret, got, want)
		}
	}
}
