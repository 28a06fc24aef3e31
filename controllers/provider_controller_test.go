package controllers

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/vault"
)

var judged = metav1.NewTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func clusterProvider(modifiers ...func(*v1alpha1.ClusterSecretProvider)) *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: "provider-1", Generation: 4}}
	p.Spec.Vault = &v1alpha1.VaultProvider{Address: "https://vault.test:8200", KeeperAuth: &v1alpha1.VaultKeeperAuth{}}
	for _, m := range modifiers {
		m(p)
	}
	return p
}

func withoutKeeper(p *v1alpha1.ClusterSecretProvider) { p.Spec.Vault.KeeperAuth = nil }

// lackedBefore: an inspection before this one found lines missing.
func lackedBefore(p *v1alpha1.ClusterSecretProvider) {
	p.Status.MissingCapabilities = []string{"sys/leases/renew: update"}
	p.Status.Server = &v1alpha1.ServerStatus{Kind: "Vault", Version: "1.0.0"}
	say(p, metav1.Time{Time: judged.Add(-time.Hour)}, metav1.ConditionFalse, v1alpha1.ReasonKeeperPolicyIncomplete, "lacks", true)
}

// verdict is what the conditions of a provider come to.
func verdict(p ProviderObject) string {
	out := ""
	for _, kind := range []string{v1alpha1.ReadyCondition, v1alpha1.ReconcilingCondition, v1alpha1.StalledCondition} {
		if c := meta.FindStatusCondition(p.ProviderStatus().Conditions, kind); c != nil {
			out += fmt.Sprintf("%s=%s ", kind, c.Status)
		}
	}
	return strings.TrimSpace(out)
}

func TestJudgeSaysWhatWasFound(t *testing.T) {
	const ready, retrying, stuck = "Ready=True", "Ready=False Reconciling=True", "Ready=False Stalled=True"
	found := vault.Report{ServerKind: "OpenBao", Version: "2.5.0"}
	lacking := vault.Report{ServerKind: "OpenBao", Version: "2.5.0", Missing: []string{"sys/leases/lookup: update", "sys/leases/revoke: update"}}
	server := &v1alpha1.ServerStatus{Kind: "OpenBao", Version: "2.5.0"}
	before := &v1alpha1.ServerStatus{Kind: "Vault", Version: "1.0.0"}
	failed := func(kind backend.ErrorKind) error { return backend.Errorf(kind, "what to do") }
	for _, c := range []struct {
		name, why       string
		provider        *v1alpha1.ClusterSecretProvider
		report          vault.Report
		err             error
		verdict, reason string
		says            []string
		missing         []string
		server          *v1alpha1.ServerStatus
	}{{
		name:     "a keeper that may do everything makes it ready",
		why:      "leases can be issued, kept and ended",
		provider: clusterProvider(), report: found,
		verdict: ready, reason: v1alpha1.ReasonReachable, says: []string{"https://vault.test:8200"}, server: server,
	}, {
		name:     "lines that were missing and are there now are forgotten",
		why:      "somebody corrected the policy",
		provider: clusterProvider(lackedBefore), report: found,
		verdict: ready, reason: v1alpha1.ReasonReachable, server: server,
	}, {
		name:     "a keeper whose policy lacks lines stalls it",
		why:      "what could not be ended must not be issued, and only a person can add the lines",
		provider: clusterProvider(), report: lacking,
		verdict: stuck, reason: v1alpha1.ReasonKeeperPolicyIncomplete, says: lacking.Missing, missing: lacking.Missing, server: server,
	}, {
		name:     "without a keeper it is ready, and says what that means",
		why:      "the promise is weaker",
		provider: clusterProvider(withoutKeeper), report: found,
		verdict: ready, reason: v1alpha1.ReasonNoKeeper, says: []string{"keeperAuth is not set", "run out by themselves"}, server: server,
	}, {
		name:     "without a keeper, lines that auth lacks do not stop it, and are named",
		why:      "a namespaced provider may do with less",
		provider: clusterProvider(withoutKeeper), report: lacking,
		verdict: ready, reason: v1alpha1.ReasonNoKeeper, says: lacking.Missing, missing: lacking.Missing, server: server,
	}, {
		name:     "a backend that is away is asked again, and what was known of it stays",
		why:      "it may come back, and nothing was learnt",
		provider: clusterProvider(lackedBefore), err: failed(backend.Unavailable),
		verdict: retrying, reason: v1alpha1.ReasonBackendUnavailable, says: []string{"what to do"},
		missing: []string{"sys/leases/renew: update"}, server: before,
	}, {
		name:     "a backend that does not answer is asked again",
		why:      "that is not a person's fault",
		provider: clusterProvider(), err: failed(backend.NoResponse),
		verdict: retrying, reason: v1alpha1.ReasonBackendUnavailable,
	}, {
		name:     "a backend with an error of its own is asked again",
		why:      "that is not a person's fault",
		provider: clusterProvider(), err: failed(backend.Failed),
		verdict: retrying, reason: v1alpha1.ReasonBackendError,
	}, {
		name:     "a login that is refused stalls it",
		why:      "a person must correct the role",
		provider: clusterProvider(), err: failed(backend.LoginFailed),
		verdict: stuck, reason: v1alpha1.ReasonLoginFailed, says: []string{"what to do"},
	}, {
		name:     "a certificate that does not verify stalls it",
		why:      "a person must correct it",
		provider: clusterProvider(), err: failed(backend.TLS),
		verdict: stuck, reason: v1alpha1.ReasonTLSFailed,
	}, {
		name:     "a reference to nothing stalls it",
		why:      "a person must correct it",
		provider: clusterProvider(), err: failed(backend.Misconfigured),
		verdict: stuck, reason: v1alpha1.ReasonInvalidSpec,
	}} {
		t.Run(c.name, func(t *testing.T) {
			judge(c.provider, c.report, c.err, judged)
			st := c.provider.ProviderStatus()
			if got := verdict(c.provider); got != c.verdict {
				t.Errorf("because %s: %s, wanted %s", c.why, got, c.verdict)
			}
			for _, cond := range st.Conditions {
				if cond.Reason != c.reason || cond.ObservedGeneration != 4 || cond.Message == "" {
					t.Errorf("because %s: %+v, wanted reason %s of generation 4 with a message", c.why, cond, c.reason)
				}
				for _, part := range c.says {
					if !strings.Contains(cond.Message, part) {
						t.Errorf("because %s: %q does not say %q", c.why, cond.Message, part)
					}
				}
			}
			if !slices.Equal(st.MissingCapabilities, c.missing) {
				t.Errorf("because %s: missing %v, wanted %v", c.why, st.MissingCapabilities, c.missing)
			}
			if !reflect.DeepEqual(st.Server, c.server) {
				t.Errorf("because %s: server %+v, wanted %+v", c.why, st.Server, c.server)
			}
		})
	}
}

func TestJudgingTheSameAgainChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		report vault.Report
		err    error
	}{
		{"of one that is ready", vault.Report{ServerKind: "Vault", Version: "1.21.0"}, nil},
		{"of one that is away", vault.Report{}, backend.Errorf(backend.Unavailable, "it is away")},
		{"of one that is stalled", vault.Report{Missing: []string{"sys/leases/revoke: update"}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := clusterProvider()
			judge(p, c.report, c.err, judged)
			before := p.Status.DeepCopy()
			judge(p, c.report, c.err, metav1.NewTime(judged.Add(time.Hour)))
			if !reflect.DeepEqual(before, &p.Status) {
				t.Errorf("each look would be a write:\n%+v\n%+v", *before, p.Status)
			}
		})
	}
}

func TestInUseMessageNamesAFew(t *testing.T) {
	names := []string{"a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"}
	for _, c := range []struct {
		holders int
		has     string
	}{
		{1, "Leases of 1 DynamicSecrets came from here and must be ended here: a/1."},
		{5, "Leases of 5 DynamicSecrets came from here and must be ended here: a/1, a/2, a/3, a/4, a/5."},
		{6, "Leases of 6 DynamicSecrets came from here and must be ended here: a/1, a/2, a/3, a/4, a/5, …."},
		{7, "Leases of 7 DynamicSecrets came from here and must be ended here: a/1, a/2, a/3, a/4, a/5, …."},
	} {
		if got := inUseMessage(names[:c.holders]); !strings.HasPrefix(got, c.has) {
			t.Errorf("of %d holders it says\n %s\nwanted\n %s", c.holders, got, c.has)
		}
	}
}

// inspections is a ProviderReconciler for cluster providers on a fake API server.
type inspections struct {
	*ProviderReconciler
	clock     *testclock.FakeClock
	forgotten []string
	// report and err are what the next inspection finds; told are the events.
	report vault.Report
	err    error
	advice []string
	told   []string
}

func inspecting(t *testing.T, report vault.Report, err error, stored ...client.Object) *inspections {
	t.Helper()
	i := &inspections{clock: testclock.NewFakeClock(judged.Time), report: report, err: err}
	server := apiServer(t, stored...).Build()
	i.ProviderReconciler = &ProviderReconciler{
		Clock:    i.clock,
		Inspect:  func(context.Context, v1alpha1.Provider) (vault.Report, error) { return i.report, i.err },
		Advice:   func(v1alpha1.Provider) []string { return i.advice },
		Announce: func(_ v1alpha1.Provider, kind, reason, _ string) { i.told = append(i.told, kind+" "+reason) },
		Forget:   func(p v1alpha1.Provider) { i.forgotten = append(i.forgotten, p.GetName()) },
		Interval: time.Hour, RetryInterval: time.Minute,
		New:    func() ProviderObject { return &v1alpha1.ClusterSecretProvider{} },
		client: server, reader: server,
	}
	return i
}

// reconcile provider vault, and read it again; nil: it is gone.
func (i *inspections) reconcile(t *testing.T) (reconcile.Result, *v1alpha1.ClusterSecretProvider) {
	t.Helper()
	req := reconcile.Request{}
	req.Name = "vault"
	result, err := i.Reconcile(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	p := &v1alpha1.ClusterSecretProvider{}
	if err := i.client.Get(context.Background(), req.NamespacedName, p); err != nil {
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		return result, nil
	}
	return result, p
}

func TestAProviderIsLookedAtAgainSoonerWhenItIsNotReady(t *testing.T) {
	for _, c := range []struct {
		name  string
		err   error
		after time.Duration
	}{
		{"a ready one after the interval", nil, time.Hour},
		{"one that is not after the shorter one", backend.Errorf(backend.Unavailable, "it is away"), time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := inspecting(t, vault.Report{ServerKind: "Vault"}, c.err, clusterProvider())
			result, p := i.reconcile(t)
			if result.RequeueAfter != c.after {
				t.Errorf("the next look is after %s, wanted %s", result.RequeueAfter, c.after)
			}
			if !slices.Contains(p.Finalizers, v1alpha1.ProviderFinalizer) || p.Status.ObservedGeneration != p.Generation {
				t.Errorf("it needs the finalizer before anything is leased from it, and a status of its generation: %+v", p)
			}
		})
	}
}

func TestALookThatFindsTheSameIsNoWrite(t *testing.T) {
	i := inspecting(t, vault.Report{ServerKind: "Vault"}, nil, clusterProvider())
	_, before := i.reconcile(t)
	i.clock.Step(time.Hour)
	if _, p := i.reconcile(t); p.ResourceVersion != before.ResourceVersion {
		t.Errorf("version %s became %s", before.ResourceVersion, p.ResourceVersion)
	}
}

func TestAProviderStaysWhileALedgerNamesIt(t *testing.T) {
	of := func(kind, name string) *v1alpha1.LeaseRecord {
		return &v1alpha1.LeaseRecord{ID: "l", TokenAccessor: "a", Provider: v1alpha1.ProviderIdentity{Kind: kind, Name: name}}
	}
	ours := of(v1alpha1.ProviderKindCluster, "vault")
	unleased := ours.DeepCopy()
	unleased.ID = ""
	going := func(p *v1alpha1.ClusterSecretProvider) {
		p.Finalizers, p.DeletionTimestamp = []string{v1alpha1.ProviderFinalizer}, &judged
	}
	for _, c := range []struct {
		name, why string
		st        v1alpha1.DynamicSecretStatus
		stays     bool
	}{
		{"for an attempt", "it may mint yet", v1alpha1.DynamicSecretStatus{Attempt: ours}, true},
		{"for a lease", "it must be ended there", v1alpha1.DynamicSecretStatus{Lease: ours}, true},
		{"for a retiring record", "it must be ended there", v1alpha1.DynamicSecretStatus{Retiring: []v1alpha1.LeaseRecord{*ours}}, true},
		{"not for an answer without a lease", "there is nothing to end", v1alpha1.DynamicSecretStatus{Lease: unleased}, false},
		{"not for another provider's lease", "that one ends it", v1alpha1.DynamicSecretStatus{Lease: of(v1alpha1.ProviderKindCluster, "other")}, false},
		{"not for the lease of a namespaced one of its name", "that is another provider", v1alpha1.DynamicSecretStatus{Lease: of(v1alpha1.ProviderKindNamespaced, "vault")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := inspecting(t, vault.Report{}, nil, clusterProvider(going), ledgerOf("orders", c.st))
			result, p := i.reconcile(t)
			if !c.stays {
				if p != nil || !slices.Equal(i.forgotten, []string{"vault"}) {
					t.Errorf("because %s: it is there: %v, forgotten: %v; wanted it gone and forgotten", c.why, p != nil, i.forgotten)
				}
				return
			}
			if p == nil || len(i.forgotten) > 0 {
				t.Fatalf("because %s: it is there: %v, forgotten: %v; wanted it kept", c.why, p != nil, i.forgotten)
			}
			ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ReadyCondition)
			if ready == nil || ready.Reason != v1alpha1.ReasonInUse || !strings.Contains(ready.Message, "shop/orders") || result.RequeueAfter != time.Minute {
				t.Errorf("because %s: it must say who holds it, and look again: %+v, %+v", c.why, ready, result)
			}
		})
	}
}

func TestAProviderThatGoesDownAndComesBackIsToldOfOnceEach(t *testing.T) {
	i := inspecting(t, vault.Report{ServerKind: "Vault"}, nil, clusterProvider())
	i.reconcile(t) // ready from the start: nothing to tell
	i.err = backend.Errorf(backend.Unavailable, "it is away")
	i.reconcile(t)
	i.err = backend.Errorf(backend.NoResponse, "it does not answer")
	i.reconcile(t)
	i.err = nil
	i.reconcile(t)
	want := []string{"Warning " + v1alpha1.ReasonBackendUnavailable, "Normal " + v1alpha1.ReasonReachable}
	if !slices.Equal(i.told, want) {
		t.Errorf("it told %v, want %v", i.told, want)
	}
}

func TestAKeeperThatMayNotListIsReadyAndAdvised(t *testing.T) {
	i := inspecting(t, vault.Report{ServerKind: "Vault"}, nil, clusterProvider())
	i.advice = []string{"sys/leases/lookup/database/creds/orders: list, sudo"}
	_, p := i.reconcile(t)
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ReadyCondition)
	if ready.Status != metav1.ConditionTrue || !strings.Contains(ready.Message, i.advice[0]) || !slices.Equal(p.Status.AdvisedCapabilities, i.advice) {
		t.Errorf("it says %+v, %v", ready, p.Status.AdvisedCapabilities)
	}
	i.advice = nil
	if _, p = i.reconcile(t); len(p.Status.AdvisedCapabilities) > 0 {
		t.Errorf("it still advises %v", p.Status.AdvisedCapabilities)
	}
}
