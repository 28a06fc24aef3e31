package lifecycle

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clientfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

var checkedAt = metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func clusterProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1", Generation: 4}}
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://vault.test:8200", KeeperAuth: &v1alpha1.VaultKeeperAuth{}}
	for _, m := range modifiers {
		m(p)
	}
	return p
}

// say sets the conditions of a provider.
func say(p v1alpha1.Provider, at metav1.Time, ready metav1.ConditionStatus, reason, message string, stalled bool) {
	set := func(kind string, status metav1.ConditionStatus) {
		meta.SetStatusCondition(&p.ProviderStatus().Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: at})
	}
	set(v1alpha1.ReadyCondition, ready)
	if stalled {
		set(v1alpha1.StalledCondition, metav1.ConditionTrue)
	}
}

// wanting is a DynamicSecret that asks for database/creds/orders from cluster provider vault.
func wanting(modifiers ...func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders", UID: "uid-1", CreationTimestamp: checkedAt},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
			Vault:       &v1alpha1.VaultRequest{Path: "database/creds/orders", Method: v1alpha1.MethodRead},
		},
	}
	for _, m := range modifiers {
		m(d)
	}
	return d
}

// usableProvider is a cluster provider that was checked and found good, with a ServiceAccount for those who name none.
func usableProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	return clusterProvider(append([]func(*v1alpha1.ClusterSecretProvider){func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.Vault.Namespace = "team"
		p.Spec.Vault.Auth.Kubernetes = &v1alpha1.VaultKubernetesAuth{Mount: "kubernetes", Role: "app",
			ServiceAccountRef: &v1alpha1.WorkloadServiceAccount{Name: "app"}}
		p.Status.ObservedGeneration = p.Generation
		say(p, checkedAt, metav1.ConditionTrue, v1alpha1.ReasonReachable, "it answers", false)
	}}, modifiers...)...)
}

func parameters(raw map[string]string) func(*v1alpha1.DynamicSecret) {
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Parameters = map[string]apiextensionsv1.JSON{}
		for name, value := range raw {
			d.Spec.Vault.Parameters[name] = apiextensionsv1.JSON{Raw: []byte(value)}
		}
	}
}

func TestDescribeTakesTheObjectsWordBeforeTheProviders(t *testing.T) {
	for _, c := range []struct {
		name, why          string
		d                  *v1alpha1.DynamicSecret
		p                  v1alpha1.Provider
		namespace, account string
	}{{
		name: "what the object leaves out is the provider's",
		why:  "a provider is for many objects",
		d:    wanting(), p: usableProvider(), namespace: "team", account: "app",
	}, {
		name: "the object's Vault namespace goes first",
		why:  "it says where to ask",
		d:    wanting(func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Namespace = "other" }), p: usableProvider(), namespace: "other", account: "app",
	}, {
		name: "the object's ServiceAccount goes first",
		why:  "it says whom to be",
		d:    wanting(func(d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "mine" }), p: usableProvider(), namespace: "team", account: "mine",
	}, {
		name: "with token auth no ServiceAccount is needed",
		why:  "the token is the provider's",
		d:    wanting(), p: usableProvider(func(p *v1alpha1.ClusterSecretProvider) {
			p.Spec.Vault.Auth = v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{}}
		}), namespace: "team",
	}, {
		name: "a provider without a default ServiceAccount gives none",
		why:  "there is none to give",
		d:    wanting(), p: usableProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef = nil }), namespace: "team",
	}} {
		t.Run(c.name, func(t *testing.T) {
			s := describe(c.d, c.p)
			if s.Where.VaultNamespace != c.namespace || s.Request.Namespace != c.namespace || s.Identity.ServiceAccount != c.account {
				t.Errorf("because %s: recorded in %q, asked in %q, as %q; wanted %q as %q", c.why,
					s.Where.VaultNamespace, s.Request.Namespace, s.Identity.ServiceAccount, c.namespace, c.account)
			}
		})
	}
}

func TestDescribeRecordsWhereTheCredentialWillLive(t *testing.T) {
	s := describe(wanting(parameters(map[string]string{"ttl": `"1h"`}), func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Method = v1alpha1.MethodWrite }), usableProvider())
	want := v1alpha1.LeaseRecord{
		Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"},
		Address:  "https://vault.test:8200", VaultNamespace: "team", Path: "database/creds/orders", RequestDigest: s.Where.RequestDigest,
	}
	if s.Where != want || len(want.RequestDigest) != 16 {
		t.Errorf("recorded %+v\n  wanted %+v", s.Where, want)
	}
	if !s.Request.Write || string(s.Request.Parameters["ttl"]) != `"1h"` || s.Request.Path != "database/creds/orders" {
		t.Errorf("the request is %+v", s.Request)
	}
	if want := (backend.Owner{Namespace: "shop", Name: "orders", UID: "uid-1"}); s.Identity.Owner != want || s.Identity.Namespace != "shop" {
		t.Errorf("asked as %+v, wanted owner %+v", s.Identity, want)
	}
	if s.ProviderGeneration != 4 {
		t.Errorf("of generation %d of the provider", s.ProviderGeneration)
	}
}

func TestTheRequestDigestTellsOneRequestFromAnother(t *testing.T) {
	for _, c := range []struct {
		name, why string
		d         func(*v1alpha1.DynamicSecret)
		p         func(*v1alpha1.ClusterSecretProvider)
		changes   bool
	}{
		{name: "another path", why: "that is another credential", changes: true,
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Path = "database/creds/billing" }},
		{name: "another method", why: "the backend acts otherwise", changes: true,
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Method = v1alpha1.MethodWrite }},
		{name: "another Vault namespace", why: "that is another engine", changes: true,
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Namespace = "other" }},
		{name: "another ServiceAccount", why: "the credential is another's", changes: true,
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.ServiceAccountName = "mine" }},
		{name: "another value of a parameter", why: "it is asked for something else", changes: true,
			d: parameters(map[string]string{"names": `["a","c"]`, "ttl": `3600`})},
		{name: "another order in a list", why: "lists have an order", changes: true,
			d: parameters(map[string]string{"names": `["b","a"]`, "ttl": `3600`})},
		{name: "a string for a number", why: "an engine may tell them apart", changes: true,
			d: parameters(map[string]string{"names": `["a","b"]`, "ttl": `"3600"`})},
		{name: "one parameter less", why: "a default takes its place", changes: true,
			d: parameters(map[string]string{"names": `["a","b"]`})},
		{name: "a parameter of another name", why: "it says something else", changes: true,
			d: parameters(map[string]string{"names": `["a","b"]`, "max_ttl": `3600`})},
		{name: "another address", why: "that is another backend", changes: true,
			p: func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Address = "https://other.test:8200" }},
		{name: "another name of the provider", why: "that is another provider", changes: true,
			p: func(p *v1alpha1.ClusterSecretProvider) { p.Name = "other" }},
		{name: "another default of the provider", why: "it is what is asked in the end", changes: true,
			p: func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Namespace = "elsewhere" }},

		{name: "another UID of the provider", why: "it was restored under its name and address",
			p: func(p *v1alpha1.ClusterSecretProvider) { p.UID = "provider-2" }},
		{name: "another generation of the provider", why: "most of its spec says nothing of the request",
			p: func(p *v1alpha1.ClusterSecretProvider) { p.Generation = 9 }},
		{name: "another role to log in as", why: "renaming a role must not rotate everything",
			p: func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.Role = "renamed" }},
		{name: "labels on the target", why: "they are the Secret's, not the credential's",
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Labels = map[string]string{"a": "b"} }},
		{name: "another name and type of the target", why: "the data stay",
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name, d.Spec.Target.Type = "b", "example.com/a" }},
		{name: "another way to keep the lease", why: "the lease stays",
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.RenewAtPercent, d.Spec.Suspend = 50, true }},
		{name: "whitespace in a parameter", why: "JSON means the same with it",
			d: parameters(map[string]string{"names": " [ \"a\",\n\t\"b\" ] ", "ttl": " 3600 "})},
		{name: "another way to write a string", why: "JSON means the same",
			d: parameters(map[string]string{"names": `["\u0061","b"]`, "ttl": `3600`})},
		{name: "the default said aloud", why: "it asks for the same",
			d: func(d *v1alpha1.DynamicSecret) { d.Spec.Vault.Namespace, d.Spec.ServiceAccountName = "team", "app" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := parameters(map[string]string{"names": `["a","b"]`, "ttl": `3600`})
			before := describe(wanting(base), usableProvider()).Where.RequestDigest
			d, p := wanting(base), usableProvider()
			if c.d != nil {
				c.d(d)
			}
			if c.p != nil {
				c.p(p)
			}
			if after := describe(d, p).Where.RequestDigest; (after != before) != c.changes {
				t.Errorf("because %s: from %s to %s, wanted a change: %v", c.why, before, after, c.changes)
			}
		})
	}
}

func TestTheKeysOfAnObjectParameterHaveNoOrder(t *testing.T) {
	digest := func(raw string) string {
		return describe(wanting(parameters(map[string]string{"data": raw})), usableProvider()).Where.RequestDigest
	}
	if a, b := digest(`{"x":1,"y":{"b":2,"a":3}}`), digest(`{"y":{"a":3,"b":2},"x":1}`); a != b {
		t.Errorf("the same object written in another order has digest %s, not %s", b, a)
	}
	if a, b := digest(`{"x":1,"y":2}`), digest(`{"x":2,"y":1}`); a == b {
		t.Errorf("two objects have the one digest %s", a)
	}
}

func TestOlderIsAnOrder(t *testing.T) {
	made := func(after time.Duration, uid types.UID) *v1alpha1.DynamicSecret {
		return wanting(func(d *v1alpha1.DynamicSecret) {
			d.CreationTimestamp, d.UID = metav1.NewTime(checkedAt.Add(after)), uid
		})
	}
	for _, c := range []struct {
		name         string
		first, other *v1alpha1.DynamicSecret
	}{
		{"who was made first", made(0, "b"), made(time.Second, "a")},
		{"of two that were made in the same second, who has the lesser UID", made(0, "a"), made(0, "b")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !older(c.first, c.other) || older(c.other, c.first) {
				t.Errorf("older: %v, and the other way round: %v; if both give way nobody has the target", older(c.first, c.other), older(c.other, c.first))
			}
			if older(c.first, c.first) {
				t.Errorf("nothing is older than itself")
			}
		})
	}
}

func TestNotReadyTakesAProviderAtItsPresentWord(t *testing.T) {
	notYet := func(p *v1alpha1.ClusterSecretProvider) {
		say(p, checkedAt, metav1.ConditionFalse, v1alpha1.ReasonBackendUnavailable, "it is away", false)
	}
	stuck := func(p *v1alpha1.ClusterSecretProvider) {
		say(p, checkedAt, metav1.ConditionFalse, v1alpha1.ReasonLoginFailed, "correct the role", true)
	}
	for _, c := range []struct {
		name, why string
		p         *v1alpha1.ClusterSecretProvider
		says      string // empty: nothing is in the way
		stalled   bool
	}{
		{"one that is ready is in nobody's way", "it was checked", usableProvider(), "", false},
		{"one that is new has not been checked", "nothing is known of it", clusterProvider(), "has not been checked yet.", false},
		{"one whose spec changed has not been checked", "its condition speaks of another spec", usableProvider(func(p *v1alpha1.ClusterSecretProvider) { p.Generation++ }), "has not been checked yet.", false},
		{"one that is not ready says why", "people look here first", usableProvider(notYet), "is not ready: it is away", false},
		{"one that is stalled stalls its objects", "somebody must change something", usableProvider(stuck), "is not ready: correct the role", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := NotReady(c.p, "ClusterSecretProvider vault")
			if (b == nil) != (c.says == "") {
				t.Fatalf("because %s: %+v, wanted %q", c.why, b, c.says)
			}
			if b != nil && (b.Reason != v1alpha1.ReasonProviderNotReady || b.Stalled != c.stalled || b.Message != "ClusterSecretProvider vault "+c.says) {
				t.Errorf("because %s: %+v, wanted %q, stalled %v", c.why, *b, c.says, c.stalled)
			}
		})
	}
}

// indexing teaches a fake API server what AddIndexes teaches the cache.
type indexing struct{ *clientfake.ClientBuilder }

func (i indexing) IndexField(_ context.Context, o client.Object, field string, of client.IndexerFunc) error {
	i.WithIndex(o, field, of)
	return nil
}

// asking is providerSources on a fake API server; its backends are nil.
func asking(t *testing.T, stored ...client.Object) *providerSources {
	t.Helper()
	b := apiServer(t, stored...)
	if err := AddIndexes(context.Background(), indexing{b}); err != nil {
		t.Fatal(err)
	}
	return &providerSources{cache: b.Build(), requestLimit: time.Minute, recoveries: func(v1alpha1.Provider) int64 { return 0 },
		backends: func(context.Context, v1alpha1.Provider) (backend.Backend, error) { return nil, nil }}
}

func TestResolveSaysTheFirstThingInTheWay(t *testing.T) {
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "shop"}}}
	only := func(team string) func(*v1alpha1.ClusterSecretProvider) {
		return func(p *v1alpha1.ClusterSecretProvider) {
			p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"team": team}}}
		}
	}
	going := func(p *v1alpha1.ClusterSecretProvider) {
		p.Finalizers, p.DeletionTimestamp = []string{v1alpha1.ProviderFinalizer}, &checkedAt
	}
	nameless := func(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.Auth.Kubernetes.ServiceAccountRef = nil }
	unchecked := func(p *v1alpha1.ClusterSecretProvider) { p.Generation++ }
	broken := func(p *v1alpha1.ClusterSecretProvider) {
		p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Selector: metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: "Sometimes"}}}}
	}
	rival := func(change func(*v1alpha1.DynamicSecret)) *v1alpha1.DynamicSecret {
		return wanting(func(d *v1alpha1.DynamicSecret) { d.Name, d.UID, d.Spec.Target.Name = "rival", "uid-2", "orders" }, change)
	}
	written := func(d *v1alpha1.DynamicSecret) { d.Status.Secret = &v1alpha1.SecretStatus{Name: "orders", UID: "s"} }
	intended := func(d *v1alpha1.DynamicSecret) { d.Status.Secret = &v1alpha1.SecretStatus{Name: "orders"} }
	earlier := func(d *v1alpha1.DynamicSecret) { d.CreationTimestamp = metav1.NewTime(checkedAt.Add(-time.Hour)) }
	later := func(d *v1alpha1.DynamicSecret) { d.CreationTimestamp = metav1.NewTime(checkedAt.Add(time.Hour)) }
	for _, c := range []struct {
		name, why string
		d         *v1alpha1.DynamicSecret
		stored    []client.Object
		reason    string // empty: nothing is in the way
	}{
		{"nothing is in the way", "everything is there", wanting(), []client.Object{usableProvider()}, ""},
		{"no provider", "there is nobody to ask", wanting(), nil, v1alpha1.ReasonProviderNotFound},
		{"a namespaced provider of another namespace", "it is not there for this one",
			wanting(func(d *v1alpha1.DynamicSecret) { d.Spec.ProviderRef.Kind = v1alpha1.ProviderKindNamespaced }),
			[]client.Object{&v1alpha1.SecretProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "vault"}}}, v1alpha1.ReasonProviderNotFound},
		{"a namespace that is allowed", "its labels match", wanting(), []client.Object{shop, usableProvider(only("shop"))}, ""},
		{"a namespace that is not allowed", "its labels do not match", wanting(), []client.Object{shop, usableProvider(only("bank"))}, v1alpha1.ReasonNamespaceNotAllowed},
		{"a selector that makes no sense", "what cannot be read allows nobody", wanting(), []client.Object{shop, usableProvider(broken)}, v1alpha1.ReasonNamespaceNotAllowed},
		{"a namespace that is not allowed, before all that the provider says of itself", "who is not allowed is told no more",
			wanting(), []client.Object{shop, usableProvider(only("bank"), going, unchecked)}, v1alpha1.ReasonNamespaceNotAllowed},
		{"a provider that is going", "it takes no new leases", wanting(), []client.Object{usableProvider(going, unchecked)}, v1alpha1.ReasonProviderDeleting},
		{"no ServiceAccount is named", "there is nobody to be", wanting(), []client.Object{usableProvider(nameless, unchecked)}, v1alpha1.ReasonServiceAccountNotFound},
		{"a provider that was not checked", "what could not be ended must not begin", wanting(), []client.Object{usableProvider(unchecked)}, v1alpha1.ReasonProviderNotReady},
		{"an older object with the same target", "it was there first", wanting(), []client.Object{usableProvider(), rival(earlier)}, v1alpha1.ReasonTargetConflict},
		{"a younger object with the same target", "this one was there first", wanting(), []client.Object{usableProvider(), rival(later)}, ""},
		{"a younger object that has the Secret", "whoever has it keeps it",
			wanting(), []client.Object{usableProvider(), rival(func(d *v1alpha1.DynamicSecret) { later(d); written(d) })}, v1alpha1.ReasonTargetConflict},
		{"a younger object that only means to write the Secret", "it does not have it yet",
			wanting(), []client.Object{usableProvider(), rival(func(d *v1alpha1.DynamicSecret) { later(d); intended(d) })}, ""},
		{"an older object, while this one has the Secret", "whoever has it keeps it", wanting(written), []client.Object{usableProvider(), rival(earlier)}, ""},
		{"an older object of another namespace", "Secrets have namespaces", wanting(),
			[]client.Object{usableProvider(), rival(func(d *v1alpha1.DynamicSecret) { earlier(d); d.Namespace = "bank" })}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, err := asking(t, append(c.stored, c.d)...).Resolve(context.Background(), c.d)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if src.Block != nil {
				got = src.Block.Reason
			}
			if got != c.reason {
				t.Errorf("because %s: blocked by %q, wanted %q", c.why, got, c.reason)
			}
			if c.reason == "" && src.Identity.MinTTL != time.Minute {
				t.Errorf("the token must outlive the request limit, but is asked to live %s", src.Identity.MinTTL)
			}
		})
	}
}

func TestARecordIsEndedOnlyWhereItLives(t *testing.T) {
	rec := func(change func(*v1alpha1.LeaseRecord)) *v1alpha1.LeaseRecord {
		r := &v1alpha1.LeaseRecord{ID: "l", TokenAccessor: "a", Address: "https://vault.test:8200",
			Provider: v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "provider-1"}}
		change(r)
		return r
	}
	for _, c := range []struct {
		name, why string
		rec       *v1alpha1.LeaseRecord
		want      backend.ErrorKind
	}{
		{"at its provider", "it is there", rec(func(*v1alpha1.LeaseRecord) {}), ""},
		{"at a provider that was restored", "its name and address say where", rec(func(r *v1alpha1.LeaseRecord) { r.Provider.UID = "before" }), ""},
		{"not without a provider", "it may be made again", rec(func(r *v1alpha1.LeaseRecord) { r.Provider.Name = "gone" }), backend.Unavailable},
		{"not at another address", "another server does not know it, which would pass for its end", rec(func(r *v1alpha1.LeaseRecord) { r.Address = "https://old.test:8200" }), backend.Misconfigured},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := asking(t, usableProvider()).BackendFor(context.Background(), wanting(), c.rec)
			got := backend.ErrorKind("")
			if err != nil {
				got = backend.KindOf(err)
			}
			if got != c.want {
				t.Errorf("because %s: %v of kind %q, wanted %q", c.why, err, got, c.want)
			}
		})
	}
}

func TestWhatTwoLedgersNameIsDisputed(t *testing.T) {
	mine := v1alpha1.LeaseRecord{ID: "l", TokenAccessor: "a", Address: "https://vault.test:8200"}
	with := func(change func(*v1alpha1.LeaseRecord)) v1alpha1.DynamicSecretStatus {
		r := mine
		change(&r)
		return v1alpha1.DynamicSecretStatus{Lease: &r}
	}
	for _, c := range []struct {
		name, why string
		theirs    v1alpha1.DynamicSecretStatus
		disputed  bool
	}{
		{"the same lease and token", "one of the two was written by somebody else", with(func(*v1alpha1.LeaseRecord) {}), true},
		{"the same lease", "ending it would end theirs", with(func(r *v1alpha1.LeaseRecord) { r.TokenAccessor = "b" }), true},
		{"the same token", "ending it would end their lease", with(func(r *v1alpha1.LeaseRecord) { r.ID = "m" }), true},
		{"the same token in an attempt", "its lease is on its way", v1alpha1.DynamicSecretStatus{Attempt: &v1alpha1.LeaseRecord{TokenAccessor: "a", Address: mine.Address}}, true},
		{"the same token retiring", "it is theirs to end", v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{mine}}, true},
		{"another lease and token", "that is the rule", with(func(r *v1alpha1.LeaseRecord) { r.ID, r.TokenAccessor = "m", "b" }), false},
		{"the same names in another backend", "they name other things there", with(func(r *v1alpha1.LeaseRecord) { r.Address = "https://other.test:8200" }), false},
		{"nothing at all", "an empty id is no name", v1alpha1.DynamicSecretStatus{Attempt: &v1alpha1.LeaseRecord{Address: mine.Address}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := ledgerOf("other", c.theirs)
			other.Namespace, other.UID = "bank", "uid-2"
			d := wanting(func(d *v1alpha1.DynamicSecret) { d.Status.Retiring = []v1alpha1.LeaseRecord{mine} })
			err := asking(t, d, other).Disputed(context.Background(), d, &mine)
			if (err != nil) != c.disputed || (err != nil && (backend.KindOf(err) != backend.Disputed || !strings.Contains(err.Error(), "bank/other"))) {
				t.Errorf("because %s: %v, wanted a dispute with bank/other: %v", c.why, err, c.disputed)
			}
		})
	}
}

func TestNumbersThatDifferOnlyBeyondAFloatsPrecisionAreDifferentRequests(t *testing.T) {
	if canonical([]byte("9007199254740992")) == canonical([]byte("9007199254740993")) {
		t.Error("two numbers are taken for one")
	}
}
