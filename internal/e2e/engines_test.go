//go:build integration

package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// samples has a manifest for each row.
const samples = "../../config/samples/engines"

// engineRow is an engine of Vault with the manifest of the same name.
type engineRow struct {
	// sample is the name of the manifest.
	sample string
	// setUp mounts the engine at r.mount of the first segment of the manifest's path.
	setUp func(*rig)
	kind  v1alpha1.ResponseKind
	// renewable: the lease is renewed. Other leases are replaced in time.
	renewable bool
	// keys of the Secret.
	keys []string
	// works is an error if the engine's server does not accept the credential; nil: there is nobody to ask.
	works func(*rig, *corev1.Secret) error
	// stays: nobody can revoke the credential, or it does not belong to the object.
	stays bool
	// onlyOnce: a check uses the credential up. So the old one is used during the handover, and the last one only after
	// it was revoked.
	onlyOnce bool
	// change makes Vault return another response of the kinds that are read again; nil: a replacement is requested.
	change func(*rig)
	// plugin is the engine's, if not every server has it.
	plugin string
	// left lists the rig's users that the engine's server has; nil: works shows enough.
	left func(*rig) []string
	// same: a replacement has the same data.
	same bool
}

func TestEveryEngine(t *testing.T) {
	t.Parallel()
	for _, row := range offered(t, engineRows) {
		t.Run(row.sample, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, shared, enginesPolicy,
				withKeeper(t, shared, `path "%s-pki/revoke" { capabilities = ["update"] }`))
			row.setUp(r)
			row.lives(r)
		})
	}
}

// offered are the rows whose engines the server has.
func offered(t *testing.T, rows []engineRow) []engineRow {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(rows), func(row engineRow) bool {
		if row.plugin == "" {
			return false
		}
		has, err := shared.Vault.Offers(t.Context(), "secret", row.plugin)
		if err != nil {
			t.Fatal(err)
		}
		return !has
	})
}

// enginesPolicy permits everything that the manifests request.
var enginesPolicy = withPolicy(`
path "%s-*"                   { capabilities = ["create", "read", "update"] }
path "identity/oidc/token/%s" { capabilities = ["read"] }
`)

// lives follows the credential: it is issued, renewed, replaced with a handover, and revoked; nothing is left.
func (row engineRow) lives(r *rig) {
	r.t.Helper()
	d := r.sample(row.sample)
	// The handover ends when the test says so.
	d.Spec.Rotation.Overlap = &metav1.Duration{Duration: time.Hour}
	d.Spec.Rotation.Settle = nil
	r.create(d)
	d = r.untilReady(d.Name)
	first := r.target(d.Name)
	row.checkIssued(r, d, first)
	row.renewed(r, d)
	last := row.replaced(r, first)
	r.remove(d.Name)
	row.gone(r, last)
}

// checkIssued checks the record and the Secret of the first credential.
func (row engineRow) checkIssued(r *rig, d *v1alpha1.DynamicSecret, s *corev1.Secret) {
	r.t.Helper()
	rec := d.Status.Leases[0]
	if rec.Kind != row.kind || (rec.ID != "") != (row.kind == v1alpha1.ResponseLeased) {
		r.t.Errorf("the record is of kind %s with the lease %q, want %s", rec.Kind, rec.ID, row.kind)
	}
	if rec.Renewable != row.renewable {
		r.t.Errorf("renewable is %t, want %t", rec.Renewable, row.renewable)
	}
	if keys := slices.Sorted(maps.Keys(s.Data)); !slices.Equal(keys, slices.Sorted(slices.Values(row.keys))) {
		r.t.Errorf("the Secret has the keys %q, want %q", keys, row.keys)
	}
	if row.left != nil && len(row.left(r)) != 1 {
		r.t.Errorf("the engine's server has the users %q, want one", row.left(r))
	}
	if row.works != nil && !row.onlyOnce {
		r.eventually("the credential to work", func() bool { return row.works(r, s) == nil })
	}
}

// renewed requests a renewal. It renews a lease and reads a response again that is not leased; it issues nothing.
func (row engineRow) renewed(r *rig, d *v1alpha1.DynamicSecret) {
	r.t.Helper()
	id := d.Status.Leases[0].ID
	r.annotate(v1alpha1.RenewRequestedAtAnnotation, "first")
	after := r.until(d.Name, "renewed", func(d *v1alpha1.DynamicSecret) bool {
		return d.Status.LastHandledRenewAt == "first"
	})
	rec := after.Status.Leases[0]
	if rec.ID != id || row.renewable != (rec.Renewals > 0) {
		r.t.Errorf("after %d renewals the lease is %q, before it was %q", rec.Renewals, rec.ID, id)
	}
}

// replaced makes the Secret contain another credential, checks that the old one still works during the handover and not
// after it, and returns the Secret with the new one.
func (row engineRow) replaced(r *rig, old *corev1.Secret) *corev1.Secret {
	r.t.Helper()
	annotation := v1alpha1.RotateRequestedAtAnnotation
	if row.change != nil {
		row.change(r)
		annotation = v1alpha1.RenewRequestedAtAnnotation
	}
	r.annotate(annotation, "second")
	r.until(old.Name, "replaced", func(d *v1alpha1.DynamicSecret) bool {
		handled := d.Status.LastHandledRotateAt
		if row.change != nil {
			handled = d.Status.LastHandledRenewAt
		}
		return handled == "second"
	})
	r.eventually("another credential", func() bool {
		s := r.target(old.Name)
		return s != nil && (row.same || !sameData(s, old))
	})
	r.untilReady(old.Name)
	now := r.target(old.Name)
	checkable := row.works != nil && !row.onlyOnce
	if checkable {
		r.eventually("the new credential to work", func() bool { return row.works(r, now) == nil })
	}
	if checkable && row.change == nil {
		if err := row.works(r, old); err != nil {
			r.t.Errorf("the old credential does not work during the handover: %v", err)
		}
	}
	if row.onlyOnce {
		row.usedOnce(r, old)
	}
	r.edit(old.Name, func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.Overlap = &metav1.Duration{} })
	r.until(old.Name, "settled", settled)
	if checkable && (!row.stays || row.change != nil) {
		r.eventually("the old credential to be revoked", func() bool { return row.works(r, old) != nil })
	}
	return now
}

// usedOnce checks that a credential works, and not again. Of a source that is read again, it is the current one.
func (row engineRow) usedOnce(r *rig, s *corev1.Secret) {
	r.t.Helper()
	r.eventually("the credential to work", func() bool {
		if row.change != nil {
			s = r.target(s.Name)
		}
		return row.works(r, s) == nil
	})
	if row.works(r, s) == nil {
		r.t.Error("the credential works twice")
	}
}

func sameData(a, b *corev1.Secret) bool {
	return maps.EqualFunc(a.Data, b.Data, func(a, b []byte) bool { return string(a) == string(b) })
}

// gone checks that the object has left no lease and no token in Vault, and no credential that works.
func (row engineRow) gone(r *rig, last *corev1.Secret) {
	r.t.Helper()
	// Repeated reads share a token that owns nothing.
	shared := 0
	if row.kind == v1alpha1.ResponseScheduled || row.kind == v1alpha1.ResponseStatic {
		shared = 1
	}
	mount := r.mount(strings.Split(r.sample(row.sample).Spec.Vault.Path, "/")[0])
	r.eventually("no lease and no token to be left", func() bool {
		leases, err := r.Vault.Leases(r.t.Context(), mount)
		r.must(err)
		return len(leases) == 0 && len(r.tokens()) <= shared
	})
	if r.target(last.Name) != nil {
		r.t.Error("the Secret is left")
	}
	if row.left != nil {
		r.eventually("no user to be left", func() bool { return len(row.left(r)) == 0 })
	}
	switch {
	case row.works == nil || row.stays:
	case row.onlyOnce:
		if row.works(r, last) == nil {
			r.t.Error("the last credential works after its revocation")
		}
	default:
		r.eventually("the last credential to be revoked", func() bool { return row.works(r, last) != nil })
	}
}

// mount is where the rig has the engine that a manifest has at the name. The path of identity is fixed.
func (r *rig) mount(name string) string {
	if name == "identity" {
		return name
	}
	return r.name + "-" + strings.TrimPrefix(name, r.name+"-")
}

// sample is a manifest for the rig: with its namespace, its provider and its mounts.
func (r *rig) sample(name string) *v1alpha1.DynamicSecret {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(samples, name+".yaml"))
	r.must(err)
	d := &v1alpha1.DynamicSecret{}
	r.must(yaml.UnmarshalStrict(text, d))
	d.Namespace, d.Spec.ProviderRef.Name = r.name, r.name
	engine, rest, _ := strings.Cut(d.Spec.Vault.Path, "/")
	if engine == "identity" {
		rest = strings.Replace(rest, "orders", r.name, 1)
	}
	d.Spec.Vault.Path = r.mount(engine) + "/" + rest
	for name, value := range d.Spec.Vault.Parameters {
		if string(value.Raw) == `"shop"` { // the namespace of the manifests
			value.Raw = []byte(strconv.Quote(r.name))
			d.Spec.Vault.Parameters[name] = value
		}
	}
	return d
}

func TestEverySampleOfAnEngineIsTestedAndDocumented(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(samples, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	page, err := os.ReadFile("../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		tested := slices.ContainsFunc(engineRows, func(row engineRow) bool { return row.sample == name })
		if !tested || !strings.Contains(string(page), "("+"../config/samples/engines/"+name+".yaml)") {
			t.Errorf("%s: tested is %t; docs/engines.md must link to it", name, tested)
		}
	}
}

func TestLibraryWithoutAFreeAccountWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, enginesPolicy)
	r.setUpLibrary("one")
	first := r.sample("ldap-library")
	r.create(first)
	r.untilReady("orders")
	second := r.sample("ldap-library")
	second.Name = "second"
	r.create(second)
	message := r.untilReason("second", v1alpha1.ReadyCondition, v1alpha1.ReasonQuotaExceeded)
	if !strings.Contains(message, "all accounts of the set are checked out") {
		t.Errorf("the message is %q", message)
	}
	if c := meta.FindStatusCondition(r.get("second").Status.Conditions, v1alpha1.StalledCondition); c != nil {
		t.Errorf("it is stalled: %s", c.Message)
	}
	r.remove("orders")
	r.untilReady("second")
	r.remove("second")
}

func TestAnOpaqueCertificateBecomesATLSSecret(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, enginesPolicy)
	r.setUpLeasedPKI()
	d := r.sample("pki-issue")
	d.Spec.Target = v1alpha1.TargetSpec{}
	d.Spec.Rotation.Overlap = &metav1.Duration{}
	r.create(d)
	r.untilReady("orders")
	if s := r.target("orders"); s.Data["tls.crt"] != nil {
		t.Error("an Opaque Secret has tls.crt")
	}
	r.edit("orders", func(d *v1alpha1.DynamicSecret) { d.Spec.Target.Type = string(corev1.SecretTypeTLS) })
	r.eventually("a TLS Secret", func() bool {
		s := r.target("orders")
		return s != nil && s.Type == corev1.SecretTypeTLS
	})
	if err := r.checkCertificate(r.target("orders")); err != nil {
		t.Error(err)
	}
	r.remove("orders")
}

func TestASecretWithoutTheLabelIsNotSent(t *testing.T) {
	t.Parallel()
	r := newRig(t, shared, enginesPolicy)
	r.setUpCiphertext()
	label := func(value string) {
		change(r, &corev1.Secret{ObjectMeta: r.named("orders-ciphertext")}, func(s *corev1.Secret) {
			s.Labels = map[string]string{v1alpha1.ParametersLabel: value}
		})
	}
	label("false")
	mark := r.vaultMark()
	r.create(r.sample("transit-decrypt"))
	message := r.untilReason("orders", v1alpha1.StalledCondition, v1alpha1.ReasonInvalidSpec)
	if !strings.Contains(message, v1alpha1.ParametersLabel) {
		t.Errorf("the message %q does not name the label", message)
	}
	if n := r.workloadRequests(mark); n > 0 {
		t.Errorf("the workload sent %d requests to Vault", n)
	}
	label("true")
	r.untilReady("orders")
	if got := r.value("orders", "plaintext"); got != "b3JkZXJz" {
		t.Errorf("the plaintext is %q", got)
	}
	r.remove("orders")
}
