//go:build integration

package e2e

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/lease"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// threeSources prepares the engines, and makes an object request a database credential, a static role and a KV secret.
func (r *rig) threeSources() func(*v1alpha1.DynamicSecret) {
	r.t.Helper()
	static := r.staticRole("app", 24*time.Hour)
	stored := r.storeKV(2, "orders", map[string]any{"color": "red", "comment": "not for workloads"})
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault, d.Spec.RefreshInterval = nil, &metav1.Duration{Duration: 2 * time.Second}
		d.Spec.Sources = []v1alpha1.SecretSource{
			{
				Name: "db", Vault: &v1alpha1.VaultRequest{Path: r.name + "/creds/orders"},
				Fields: &v1alpha1.FieldSelection{Prefix: "DB_"},
			},
			{
				Name: "app", Vault: static,
				Fields: &v1alpha1.FieldSelection{Include: []string{"username", "password"}, Prefix: "APP_"},
			},
			{Name: "settings", Vault: stored, Fields: &v1alpha1.FieldSelection{Exclude: []string{"comment"}}},
		}
	}
}

// auditSource adds a second database credential as a fourth source.
func (r *rig) auditSource() func(*v1alpha1.DynamicSecret) {
	r.t.Helper()
	role := testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}
	r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, "audit", role))
	return func(d *v1alpha1.DynamicSecret) {
		d.Spec.Sources = append(d.Spec.Sources, v1alpha1.SecretSource{
			Name: "audit", Vault: &v1alpha1.VaultRequest{Path: r.name + "/creds/audit"},
			Fields: &v1alpha1.FieldSelection{Prefix: "AUDIT_"},
		})
	}
}

// loginAs logs in to PostgreSQL with the credential that has the prefix in a Secret.
func (r *rig) loginAs(s *corev1.Secret, prefix string) error {
	return r.Postgres.Login(context.Background(), string(s.Data[prefix+"username"]), string(s.Data[prefix+"password"]))
}

// recordOf is the recorded lease of a source; without one it is empty.
func recordOf(d *v1alpha1.DynamicSecret, source string) *v1alpha1.LeaseRecord {
	for i := range d.Status.Leases {
		if d.Status.Leases[i].Source == source {
			return &d.Status.Leases[i]
		}
	}
	return &v1alpha1.LeaseRecord{}
}

// onlyRecorded waits until Vault has just the object's recorded leases, and PostgreSQL just the users in its Secret.
func (r *rig) onlyRecorded(name string, prefixes ...string) {
	r.t.Helper()
	d, s := r.until(name, "settled", settled), r.target(name)
	var users []string
	for _, prefix := range prefixes {
		users = append(users, string(s.Data[prefix+"username"]))
		r.must(r.loginAs(s, prefix))
	}
	slices.Sort(users)
	r.eventually("only recorded leases and published users to be alive", func() bool {
		ids, alive := r.leases(), r.users()
		slices.Sort(ids)
		slices.Sort(alive)
		return slices.Equal(ids, leaseIDs(d.Status.Leases)) && slices.Equal(alive, users)
	})
}

func TestThreeSourcesShareOneSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	d := r.ready("orders", r.threeSources())
	s := r.target("orders")
	keys := []string{"APP_password", "APP_username", "DB_password", "DB_username", "color"}
	if got := slices.Sorted(maps.Keys(s.Data)); !slices.Equal(got, keys) {
		t.Errorf("the Secret has %v, want %v", got, keys)
	}
	r.must(r.loginAs(s, "DB_"))
	r.must(r.loginAs(s, "APP_"))
	for source, kind := range map[string]v1alpha1.ResponseKind{
		"db": v1alpha1.ResponseLeased, "app": v1alpha1.ResponseScheduled, "settings": v1alpha1.ResponseStatic,
	} {
		if rec := recordOf(d, source); rec.Kind != kind || (rec.ID != "") != (kind == v1alpha1.ResponseLeased) {
			t.Errorf("source %s is recorded as %+v", source, rec)
		}
	}
	// The lease ends with its session.
	end, ok := lease.LifeEnd(recordOf(d, "db"))
	if !ok || d.Status.ExpiresAt == nil || !end.Equal(d.Status.ExpiresAt.Time) {
		t.Errorf("the status expires at %s, the lease at %s", d.Status.ExpiresAt, end)
	}
	r.onlyRecorded("orders", "DB_")

	mark := r.vaultMark()
	r.storeKV(2, "orders", map[string]any{"color": "blue", "size": 7})
	r.eventually("the new value", func() bool { return r.value("orders", "color") == "blue" })
	want := maps.Clone(s.Data)
	want["color"], want["size"] = []byte("blue"), []byte("7")
	if got := r.target("orders").Data; !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("the Secret has %v, want only other KV keys than %v", slices.Sorted(maps.Keys(got)), keys)
	}
	after := r.until("orders", "settled", settled)
	if n := r.minted(mark); n != 0 || recordOf(after, "db").ID != recordOf(d, "db").ID {
		t.Errorf("a change in KV issued %d credentials", n)
	}
	r.onlyRecorded("orders", "DB_")

	session := recordOf(d, "db").Handle()
	r.remove("orders")
	if r.target("orders") != nil {
		t.Error("the Secret is left")
	}
	r.nothingLeft()
	r.eventually("the recorded session to be revoked", func() bool { return !slices.Contains(r.tokens(), session) })
}

func TestTargetSelectsFieldsOfAllSources(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	before := r.ready("orders", r.threeSources(), func(d *v1alpha1.DynamicSecret) {
		d.Spec.Target.Fields = &v1alpha1.FieldSelection{
			Include: []string{"DB_username", "DB_password", "color"},
			Exclude: []string{"DB_username"}, Prefix: "ORDERS_",
		}
	})
	want := []string{"ORDERS_DB_password", "ORDERS_color"}
	if got := slices.Sorted(maps.Keys(r.target("orders").Data)); !slices.Equal(got, want) {
		t.Errorf("the Secret has %v, want %v", got, want)
	}
	// The values of a Secret are never trusted as input, so another selection needs a new credential.
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Fields = nil })
	r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		return settled(d) && recordOf(d, "db").ID != recordOf(before, "db").ID
	})
	r.onlyRecorded("orders", "DB_")
}

func TestLostLeaseReplacesTheWholeSet(t *testing.T) {
	t.Parallel()
	const overlap, bound = 20 * time.Second, 35 * time.Second
	r := newRig(t, shared, leaselessPolicy)
	r.ready("orders", r.threeSources(), r.auditSource(), func(d *v1alpha1.DynamicSecret) {
		d.Spec.Rotation.Overlap = &metav1.Duration{Duration: overlap}
	})
	before, old := r.until("orders", "settled", settled), r.target("orders")
	vaultMark, apiMark := r.vaultMark(), r.apiMark()
	lost := recordOf(before, "db").ID
	r.must(r.Vault.Write(t.Context(), "sys/leases/revoke", map[string]any{"lease_id": lost, "sync": true}))
	during := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
		id := recordOf(d, "db").ID
		return id != "" && id != lost && lease.Published(&d.Status)
	})
	revoked, written := r.auditTimes(vaultMark, "^update sys/leases/revoke$"), r.secretWrites(apiMark, 1)
	if after := written[0].Sub(revoked[0]); after > bound {
		t.Errorf("the set was replaced after %s, want %s or less", after, bound)
	}
	current := r.target("orders")
	for _, prefix := range []string{"DB_", "AUDIT_"} {
		if string(current.Data[prefix+"username"]) == string(old.Data[prefix+"username"]) {
			t.Errorf("%s was not replaced", prefix)
		}
		r.must(r.loginAs(current, prefix))
	}
	// The other lease of the old set still works.
	r.must(r.loginAs(old, "AUDIT_"))
	if n := r.minted(vaultMark); n != 2 {
		t.Errorf("%d credentials were issued, want 2", n)
	}

	r.until("orders", "settled", settled)
	r.onlyRecorded("orders", "DB_", "AUDIT_")
	if r.loginAs(old, "AUDIT_") == nil {
		t.Error("the old credential still works")
	}
	over := during.Status.Handover.PublishedAt.Add(overlap)
	rotated := meta.FindStatusCondition(r.get("orders").Status.Conditions, v1alpha1.RotatedCondition)
	if rotated == nil || rotated.Status != metav1.ConditionTrue || rotated.LastTransitionTime.Time.Before(over) {
		t.Errorf("the overlap ended at %s, and Rotated is %+v", over, rotated)
	}
}

func TestSourcesWithTheSameKeyAreRejected(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	sources := r.threeSources()
	audit := r.auditSource()
	r.apply("orders", sources, audit, func(d *v1alpha1.DynamicSecret) {
		for i := range d.Spec.Sources {
			d.Spec.Sources[i].Fields = nil
		}
	})
	var stalled string
	r.eventually("a condition to name the key and both sources", func() bool {
		stalled = ""
		for _, c := range r.get("orders").Status.Conditions {
			if c.Type == v1alpha1.StalledCondition {
				stalled = c.Message
			}
		}
		// Whichever of the keys and sources comes first.
		named := 0
		for _, source := range []string{"db", "app", "audit"} {
			if strings.Contains(stalled, `"`+source+`"`) || strings.Contains(stalled, " "+source+" ") {
				named++
			}
		}
		return named >= 2 && (strings.Contains(stalled, "username") || strings.Contains(stalled, "password"))
	})
	t.Log(stalled)
	if r.target("orders") != nil {
		t.Error("there is a Secret")
	}
	r.nothingLeft()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.Sources = nil
		sources(d)
		audit(d)
	})
	r.untilReady("orders")
	r.onlyRecorded("orders", "DB_", "AUDIT_")
	r.remove("orders")
	r.nothingLeft()
}

func TestSameIncludedFieldIsRejectedAtApplyTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, leaselessPolicy)
	d := r.secret("orders", r.threeSources(), func(d *v1alpha1.DynamicSecret) {
		for i := range d.Spec.Sources[:2] {
			d.Spec.Sources[i].Fields = &v1alpha1.FieldSelection{Include: []string{"username"}}
		}
	})
	err := r.Kube.Create(t.Context(), d)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "produce the same key") {
		t.Errorf("the API server said %v", err)
	}
}
