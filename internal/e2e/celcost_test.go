//go:build integration

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// The API server counts an evaluation for each part of an object that has CEL rules, on every write. No manager runs
// here, so the test's writes are the only ones.
func TestStatusWriteCostsAtMostTenCELEvaluations(t *testing.T) {
	t.Parallel()
	awaitSlot(t)
	const writes, bound = 50, 10
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	plane, err := testbed.StartControlPlane(ctx, testbed.ControlPlaneOptions{CRDs: []string{"../../config/crd/bases"}})
	check(err)
	defer func() { check(plane.Close()) }()
	scheme := runtime.NewScheme()
	check(v1alpha1.AddToScheme(scheme))
	kube, err := client.New(plane.Config, client.Options{Scheme: scheme})
	check(err)
	for name, d := range map[string]*v1alpha1.DynamicSecret{"one": withOneSource(), "many": withManySources()} {
		d.Namespace, d.Name = "default", name
		check(kube.Create(ctx, d))
		d.Status = liveStatus(len(d.AllSources()))
		check(kube.Status().Update(ctx, d))
		before := celEvaluations(t, plane)
		for i := range writes {
			d.Status.NextActionAt = &metav1.Time{Time: time.Unix(int64(2_000_000_000+i), 0)}
			check(kube.Status().Update(ctx, d))
		}
		each := (celEvaluations(t, plane) - before) / writes
		t.Logf("%s: %.1f evaluations for each status write", name, each)
		if each > bound {
			t.Errorf("%s: a status write costs %.1f CEL evaluations, want %d or less", name, each, bound)
		}
	}
}

// celEvaluations is how many the API server has counted.
func celEvaluations(t *testing.T, plane *testbed.ControlPlane) float64 {
	t.Helper()
	kube, err := kubernetes.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	text, err := kube.RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`(?m)^apiserver_cel_evaluation_duration_seconds_count(?:\{\})? (\S+)$`)
	found := series.FindSubmatch(text)
	if found == nil {
		t.Fatal("the API server does not count CEL evaluations")
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// withOneSource uses every part of the spec that has a rule.
func withOneSource() *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{}
	d.Spec.ProviderRef = &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"}
	d.Spec.Vault = &v1alpha1.VaultRequest{
		Path: "database/creds/orders", Namespace: "shop", Method: v1alpha1.MethodWrite,
		Parameters: parameters(map[string]any{"ttl": "1h"}),
		ParametersFrom: []v1alpha1.ParameterSource{
			{Name: "pin", SecretKeyRef: v1alpha1.ParameterKeyReference{Name: "pins", Key: "orders"}},
		},
		PrivateKey: &v1alpha1.PrivateKeySpec{Algorithm: v1alpha1.AlgorithmRSA, Size: 4096},
	}
	useEveryOption(d)
	return d
}

// withManySources has eight sources.
func withManySources() *v1alpha1.DynamicSecret {
	d := &v1alpha1.DynamicSecret{}
	for i := range 8 {
		d.Spec.Sources = append(d.Spec.Sources, v1alpha1.SecretSource{
			Name:        fmt.Sprint("source-", i),
			ProviderRef: &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: "vault"},
			Vault:       &v1alpha1.VaultRequest{Path: fmt.Sprint("database/creds/orders-", i), Namespace: "shop"},
			Fields: &v1alpha1.FieldSelection{
				Include: []string{"username", "password"}, Prefix: fmt.Sprintf("DB%d_", i),
			},
		})
	}
	useEveryOption(d)
	return d
}

func useEveryOption(d *v1alpha1.DynamicSecret) {
	hour := &metav1.Duration{Duration: time.Hour}
	d.Spec.ServiceAccountName = "orders"
	d.Spec.Lease.Increment, d.Spec.Lease.RevocationDeadline = hour, hour
	d.Spec.Rotation = v1alpha1.RotationSpec{MaxAge: hour, Overlap: hour, Windows: []v1alpha1.RotationWindow{
		{Schedule: "0 2 * * *", TimeZone: "Europe/Vienna", Duration: *hour},
		{Schedule: "@weekly", Duration: *hour},
	}}
	d.Spec.Rollout = &v1alpha1.RolloutSpec{Targets: []v1alpha1.RolloutTarget{
		{Name: "web"}, {Kind: v1alpha1.KindStatefulSet, Name: "db"},
		{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "orders"}}},
	}}
	d.Spec.RefreshInterval = hour
	d.Spec.Target = v1alpha1.TargetSpec{
		Name: "orders", Type: "Opaque", Labels: map[string]string{"team": "shop"},
		Annotations: map[string]string{"note": "first"},
		Fields:      &v1alpha1.FieldSelection{Exclude: []string{"comment"}, Prefix: "X_"},
	}
}

// liveStatus is that of an object with live leases.
func liveStatus(leases int) v1alpha1.DynamicSecretStatus {
	now := metav1.Time{Time: time.Now().Truncate(time.Second)}
	st := v1alpha1.DynamicSecretStatus{LedgerVersion: 1, ExpiresAt: &now, NextAction: v1alpha1.NextRenew}
	for i := range leases {
		st.Leases = append(st.Leases, v1alpha1.LeaseRecord{
			Source:        fmt.Sprint("source-", i),
			Provider:      v1alpha1.ProviderIdentity{Kind: v1alpha1.ProviderKindCluster, Name: "vault", UID: "uid"},
			RequestDigest: "1:digest", Kind: v1alpha1.ResponseLeased, ID: fmt.Sprint("database/creds/orders/", i),
			StartedAt: now, IssuedAt: &now, ExpiresAt: &now, DurationSeconds: 3600, Renewable: true,
			Session: &v1alpha1.SessionTerm{ExpiresAt: now, DurationSeconds: 3600, Renewable: true},
			Vault: &v1alpha1.VaultRecord{
				Address: "https://vault:8200", Path: "database/creds/orders", TokenAccessor: "a",
			},
		})
	}
	st.Secret = &v1alpha1.SecretStatus{Name: "orders", UID: "uid", ResourceVersion: "1", Digest: "digest"}
	for _, kind := range []string{v1alpha1.ReadyCondition, v1alpha1.LeasedCondition} {
		st.Conditions = append(st.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: "Leased", LastTransitionTime: now,
		})
	}
	return st
}
