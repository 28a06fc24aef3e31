//go:build integration

package e2e

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestEditedSecretIsReplacedByANewLease(t *testing.T) {
	t.Parallel()
	edit := func(how func(*corev1.Secret)) func(*rig) {
		return func(r *rig) { change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, how) }
	}
	for name, touch := range map[string]func(*rig){
		"changed value": edit(func(s *corev1.Secret) { s.Data["password"] = []byte("mine") }),
		"missing key":   edit(func(s *corev1.Secret) { delete(s.Data, "password") }),
		"no data":       edit(func(s *corev1.Secret) { s.Data = nil }),
		"no salt":       edit(func(s *corev1.Secret) { delete(s.Annotations, v1alpha1.DigestSaltAnnotation) }),
		"deleted":       func(r *rig) { r.must(r.Kube.Delete(r.t.Context(), r.target("orders"))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared)
			before := r.ready("orders")
			old, mark := r.target("orders"), r.vaultMark()
			touch(r)
			after := r.until("orders", "replaced", func(d *v1alpha1.DynamicSecret) bool {
				return hasNewLease(before, d) && len(d.Status.Retiring) == 0
			})
			r.untilReady("orders")
			s := r.target("orders")
			r.must(r.login(s))
			if len(s.Data) != len(old.Data) {
				t.Errorf("the Secret has %d keys, want %d", len(s.Data), len(old.Data))
			}
			if err := r.login(old); err == nil {
				t.Error("the old credential is still valid")
			}
			r.untilAlive(1)
			if ids := r.leases(); ids[0] != leaseID(after) || r.minted(mark) != 1 {
				t.Errorf("Vault has %v, the status records %s; %d credentials were requested",
					ids, leaseID(after), r.minted(mark))
			}
		})
	}
}

func TestForeignKeyReplacesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	mark := r.vaultMark()
	change(r, &corev1.Secret{ObjectMeta: r.named("orders")}, func(s *corev1.Secret) { s.Data["more"] = []byte("mine") })
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "now") // handled after the edit
	after := r.untilRenewedFor("now")
	r.until("orders", "at rest", atRest)
	s := r.target("orders")
	if leaseID(after) != leaseID(before) || r.minted(mark) != 0 || string(s.Data["more"]) != "mine" {
		t.Errorf("lease %s became %s, %d credentials were requested, the Secret has %d keys",
			leaseID(before), leaseID(after), r.minted(mark), len(s.Data))
	}
	r.must(r.login(s))
}

func TestSecretIsOwnedAndLabelled(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	d := r.ready("orders")
	s := r.target("orders")
	if s.Labels[v1alpha1.OwnerLabel] != "orders" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("labels %v, type %s", s.Labels, s.Type)
	}
	if !metav1.IsControlledBy(s, d) || len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Kind != "DynamicSecret" {
		t.Errorf("owners: %+v", s.OwnerReferences)
	}
	if got := d.Status.Secret; got.Name != s.Name || got.UID != s.UID || got.ResourceVersion != s.ResourceVersion {
		t.Errorf("the status records %s %s %s", got.Name, got.UID, got.ResourceVersion)
	}
}

// TestTargetEditsKeepTheCredential makes one edit after the other, each on the result of the previous one.
func TestTargetEditsKeepTheCredential(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	data, mark := r.target("orders").Data, r.vaultMark()
	name := "orders"
	settles := func(what string, ok func(*corev1.Secret) bool) {
		t.Helper()
		r.eventually("a Secret with "+what, func() bool {
			s := r.target(name)
			return s != nil && ok(s)
		})
		r.untilReady("orders")
		d, s := r.get("orders"), r.target(name)
		if !maps.EqualFunc(s.Data, data, func(a, b []byte) bool { return string(a) == string(b) }) {
			t.Errorf("%s: the data have changed", what)
		}
		if leaseID(d) != leaseID(before) || r.minted(mark) != 0 {
			t.Fatalf("%s: lease %s became %s, %d credentials were requested",
				what, leaseID(before), leaseID(d), r.minted(mark))
		}
	}
	target := func(how func(*v1alpha1.TargetSpec)) {
		t.Helper()
		r.edit("orders", func(d *v1alpha1.DynamicSecret) { how(&d.Spec.Target) })
	}
	secret := func(how func(*corev1.Secret)) {
		t.Helper()
		change(r, &corev1.Secret{ObjectMeta: r.named(name)}, how)
	}

	target(func(s *v1alpha1.TargetSpec) {
		s.Labels = map[string]string{"team": "shop", "app": "orders"}
		s.Annotations = map[string]string{"note": "first"}
	})
	settles("labels and an annotation", func(s *corev1.Secret) bool {
		return s.Labels["team"] == "shop" && s.Labels["app"] == "orders" && s.Annotations["note"] == "first"
	})
	secret(func(s *corev1.Secret) { s.Labels["foreign"], s.Annotations["foreign"] = "kept", "kept" })
	target(func(s *v1alpha1.TargetSpec) { delete(s.Labels, "app"); s.Annotations = nil })
	settles("one label less, and foreign labels", func(s *corev1.Secret) bool {
		_, app := s.Labels["app"]
		_, note := s.Annotations["note"]
		removed := !app && !note
		return removed && s.Labels["team"] == "shop" && s.Labels["foreign"] == "kept" &&
			s.Annotations["foreign"] == "kept"
	})
	secret(func(s *corev1.Secret) { s.Labels["team"] = "mine"; s.OwnerReferences = nil })
	settles("its label and its owner again", func(s *corev1.Secret) bool {
		return s.Labels["team"] == "shop" && len(s.OwnerReferences) == 1
	})
	name = "renamed"
	target(func(s *v1alpha1.TargetSpec) { s.Name = name })
	settles("another name", func(*corev1.Secret) bool { return r.target("orders") == nil })
	target(func(s *v1alpha1.TargetSpec) { s.Type = string(corev1.SecretTypeBasicAuth) })
	settles("another type", func(s *corev1.Secret) bool {
		return s.Type == corev1.SecretTypeBasicAuth && s.Labels["team"] == "shop"
	})
	name = "again"
	target(func(s *v1alpha1.TargetSpec) { s.Name, s.Type = name, "example.com/own" })
	settles("another name and type", func(s *corev1.Secret) bool {
		return s.Type == "example.com/own" && r.target("renamed") == nil
	})
	r.must(r.login(r.target(name)))
	r.remove("orders")
	var left corev1.SecretList
	r.must(r.Kube.List(t.Context(), &left, client.InNamespace(r.name), client.HasLabels{v1alpha1.OwnerLabel}))
	if len(left.Items) != 0 {
		t.Errorf("%d Secrets are left", len(left.Items))
	}
	r.untilAlive(0)
}

func TestTargetRenamedToATakenNameKeepsTheSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared)
	before := r.ready("orders")
	foreign := &corev1.Secret{ObjectMeta: r.named("taken"), Data: map[string][]byte{"mine": []byte("mine")}}
	r.create(foreign)
	mark := r.vaultMark()
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "taken" })
	r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
	s := r.target("orders")
	if s == nil || r.target("taken").ResourceVersion != foreign.ResourceVersion {
		t.Fatal("the old Secret is gone, or the foreign one was written")
	}
	r.must(r.login(s))
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Name = "" })
	after := r.untilReady("orders")
	sameData := equality.Semantic.DeepEqual(r.target("orders").Data, s.Data)
	if leaseID(after) != leaseID(before) || r.minted(mark) != 0 || !sameData {
		t.Errorf("lease %s became %s, %d credentials were requested", leaseID(before), leaseID(after), r.minted(mark))
	}
}

func TestTypeWithoutItsKeysIsReported(t *testing.T) {
	t.Parallel()
	for kind, key := range map[corev1.SecretType]string{
		corev1.SecretTypeTLS: "tls.crt", corev1.SecretTypeSSHAuth: "ssh-privatekey",
		corev1.SecretTypeDockerConfigJson: ".dockerconfigjson", corev1.SecretTypeDockercfg: ".dockercfg",
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, withProxy())
			r.apply("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(kind) })
			message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonInvalidResponse)
			if !strings.Contains(message, `"`+key+`"`) {
				t.Errorf("the message is %q, want %q in it", message, key)
			}
			r.backsOff(r.issuing(), 0)
			if r.target("orders") != nil {
				t.Error("the Secret exists")
			}
			r.edit("orders", func(d *v1alpha1.DynamicSecret) {
				d.Spec.Target.Type = string(corev1.SecretTypeBasicAuth)
			})
			r.untilReady("orders")
			r.must(r.login(r.target("orders")))
			r.untilAlive(1)
		})
	}
}
