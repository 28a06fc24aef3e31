package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// place is the name of the namespace, the database mount, the policy, the login role and the provider.
const place = "storm"

// userPrefix is what the names of the PostgreSQL users begin with.
const userPrefix = "v-" + place + "-"

// site is a bed with a namespace, a database mount and a provider behind a proxy.
type site struct {
	opts Options
	bed  *testbed.Bed
	// kube is an administrator's client that can watch; it does not go through a proxy.
	kube client.WithWatch
	// vault stands between the manager and Vault.
	vault *testbed.Proxy
	// root is held while Vault is spoken to with the root token, and held alone while Vault is away: a request of our
	// own that Vault is stopped in would be one more thing that Vault may leave half done.
	root sync.RWMutex
}

func newSite(ctx context.Context, opts Options) (*site, error) {
	bed, err := startBed(ctx, opts)
	if err != nil {
		return nil, err
	}
	s := &site{opts: opts, bed: bed}
	for _, step := range []func() error{
		func() (err error) {
			s.kube, err = client.NewWithWatch(bed.Plane.Config, client.Options{Scheme: bed.Kube.Scheme()})
			return err
		},
		func() error { return s.setUpVault(ctx) },
		func() (err error) {
			s.vault, err = testbed.StartProxy(bed.Vault.Address, testbed.ProxyOptions{})
			return err
		},
		func() error { return s.setUpCluster(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *site) close() error {
	err := errors.Join(s.keepLog(s.bed.Manager, ""), s.bed.Close())
	if s.vault != nil {
		err = errors.Join(err, s.vault.Close())
	}
	return err
}

func (s *site) keepLog(m *testbed.Manager, suffix string) error {
	if s.opts.Log == "" {
		return nil
	}
	text, err := m.Log()
	if err != nil {
		return err
	}
	return os.WriteFile(s.opts.Log+suffix, []byte(text), 0o600)
}

func (s *site) setUpCluster(ctx context.Context) error {
	return errors.Join(
		s.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: place}}),
		s.kube.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: place}}),
		s.kube.Create(ctx, s.provider()),
	)
}

func (s *site) provider() *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: place}}
	p.Spec.Vault = &v1alpha1.VaultProvider{
		Address: s.vault.Address,
		Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: place,
			ServiceAccountRef: &v1alpha1.WorkloadServiceAccount{Name: "orders", Audiences: []string{"vault"}},
		}},
		KeeperAuth: &v1alpha1.VaultKeeperAuth{Kubernetes: &v1alpha1.VaultKeeperKubernetesAuth{
			Mount: "kubernetes", Role: "keeper",
			ServiceAccountRef: v1alpha1.KeeperServiceAccount{Name: testbed.ManagerAccount, Namespace: testbed.ManagerNamespace, Audiences: []string{"vault"}},
		}},
	}
	return p
}

// roles of the database engine. Vault makes, renews and drops one user of a connection at a time, so each role has one of
// its own, the stirred objects share four, and each of those whose users take seconds to make has its own role.
func (s *site) roles() map[string]testbed.DatabaseRole {
	roles := map[string]testbed.DatabaseRole{
		"brief":       {DefaultTTL: briefTTL, MaxTTL: 3 * briefTTL},
		"patient-90":  {DefaultTTL: 90 * time.Second, MaxTTL: 24 * time.Hour},
		"patient-120": {DefaultTTL: 2 * time.Minute, MaxTTL: 24 * time.Hour},
		"patient-180": {DefaultTTL: 3 * time.Minute, MaxTTL: 24 * time.Hour},
	}
	for i := range s.opts.Objects {
		if kindOf(i) == stirred {
			// They last for longer than a run, so that one which is left behind is still there to be counted at its end.
			roles[roleOf(i)] = testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}
		}
	}
	return roles
}

func (s *site) setUpVault(ctx context.Context) error {
	v := s.bed.Vault
	errs := []error{
		v.Root.Sys().MountWithContext(ctx, place, &api.MountInput{Type: "database"}),
		v.WritePolicy(ctx, place, `path "`+place+`/creds/*" { capabilities = ["read"] }`),
		v.WriteRole(ctx, "kubernetes", place, testbed.KubernetesRole{
			ServiceAccounts: []string{"orders"}, Namespaces: []string{place}, Policies: []string{place}, Audience: "vault",
			TTL: time.Hour, MaxTTL: 24 * time.Hour,
		}),
	}
	for name := range s.roles() {
		errs = append(errs, s.connect(ctx, name), s.writeRole(ctx, name, 0))
	}
	return errors.Join(errs...)
}

// connect makes the connection of a role. Vault keeps none to PostgreSQL for later: its smart shutdown waits for each to
// leave.
func (s *site) connect(ctx context.Context, role string) error {
	return s.bed.Vault.ConnectDatabase(ctx, place, role, s.bed.Postgres, map[string]any{
		"username_template":    userPrefix + "{{random 20}}-{{unix_time}}",
		"max_idle_connections": -1, "max_connection_lifetime": "5s",
	})
}

// writeRole makes a role whose creation statement takes so long.
func (s *site) writeRole(ctx context.Context, name string, takes time.Duration) error {
	role := s.roles()[name]
	role.Connection = name
	role.CreationStatements = []string{
		fmt.Sprintf(`SELECT pg_sleep(%.3f);`, takes.Seconds()) +
			` CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
	}
	// What Vault does by itself looks for the user's rights in every schema, which is a lot of work with many users.
	role.RevocationStatements = []string{`DROP ROLE IF EXISTS "{{name}}";`}
	return s.bed.Vault.WriteDatabaseRole(ctx, place, name, role)
}

// object is a DynamicSecret, not created yet.
func object(name, role string, renewAtPercent int32) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: place, Name: name},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef:     v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: place},
			Vault:           &v1alpha1.VaultRequest{Path: place + "/creds/" + role},
			Lease:           v1alpha1.LeaseSpec{RenewAtPercent: renewAtPercent, RevocationDeadline: metav1.Duration{Duration: time.Hour}},
			Rotation:        v1alpha1.RotationSpec{Overlap: &metav1.Duration{Duration: time.Second}},
			RefreshInterval: metav1.Duration{Duration: time.Hour},
		},
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: place, Name: name} }

func (s *site) objects(ctx context.Context) (map[string]*v1alpha1.DynamicSecret, error) {
	var list v1alpha1.DynamicSecretList
	err := s.kube.List(ctx, &list, client.InNamespace(place))
	found := map[string]*v1alpha1.DynamicSecret{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found, err
}

func (s *site) secrets(ctx context.Context) (map[string]*corev1.Secret, error) {
	var list corev1.SecretList
	err := s.kube.List(ctx, &list, client.InNamespace(place))
	found := map[string]*corev1.Secret{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found, err
}

// versions tells the Secrets' states apart.
func (s *site) versions(ctx context.Context) (map[string]string, error) {
	secrets, err := s.secrets(ctx)
	found := map[string]string{}
	for name, secret := range secrets {
		found[name] = string(secret.UID) + "@" + secret.ResourceVersion
	}
	return found, err
}

// ledgers tells what is on record of objects: ids and accessors give access to nothing.
func (s *site) ledgers(ctx context.Context, names []string) string {
	objects, err := s.objects(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, name := range names {
		d := objects[name]
		if d == nil {
			fmt.Fprintf(&b, "%s: there is no such object\n", name)
			continue
		}
		fmt.Fprintf(&b, "%s: generation %d, deleted %v, annotations %v\n", name, d.Generation, d.DeletionTimestamp, d.Annotations)
		tellRecord(&b, "attempt", d.Status.Attempt)
		tellRecord(&b, "lease", d.Status.Lease)
		for i := range d.Status.Retiring {
			tellRecord(&b, "retiring", &d.Status.Retiring[i])
		}
		for _, c := range d.Status.Conditions {
			fmt.Fprintf(&b, "  %s is %s: %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	return b.String()
}

func tellRecord(b *strings.Builder, what string, rec *v1alpha1.LeaseRecord) {
	if rec == nil {
		return
	}
	fmt.Fprintf(b, "  %s: id %q, accessor %s, started %s, expires %v, ends after %v, renewals %d, %s\n", what, rec.ID, rec.TokenAccessor,
		rec.StartedAt.UTC().Format(time.TimeOnly), rec.ExpiresAt, rec.EndAfter, rec.Renewals, rec.Reason)
}
