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

// runName names the namespace, the database mount, the policy, the login role and the provider.
const runName = "storm"

// userPrefix starts the name of each PostgreSQL user of the run.
const userPrefix = "v-" + runName + "-"

// environment is a bed with a namespace, a database mount, and a provider behind a proxy.
type environment struct {
	opts Options
	bed  *testbed.Bed
	// kube is an administrator's client that bypasses the proxy.
	kube client.WithWatch
	// vault is the proxy between the manager and Vault.
	vault *testbed.Proxy
	// vaultRunning is read-locked during requests with the root token, and locked while Vault is stopped. It keeps
	// Vault from stopping in the middle of such a request.
	vaultRunning sync.RWMutex
}

func newEnvironment(ctx context.Context, opts Options) (*environment, error) {
	bed, err := startBed(ctx, opts)
	if err != nil {
		return nil, err
	}
	e := &environment{opts: opts, bed: bed}
	for _, step := range []func() error{
		func() (err error) {
			e.kube, err = client.NewWithWatch(bed.Plane.Config, client.Options{Scheme: bed.Kube.Scheme()})
			return err
		},
		func() error { return e.setUpVault(ctx) },
		func() (err error) {
			e.vault, err = testbed.StartProxy(bed.Vault.Address, testbed.ProxyOptions{})
			return err
		},
		func() error { return e.setUpCluster(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, e.close())
		}
	}
	return e, nil
}

func (e *environment) close() error {
	err := errors.Join(e.keepLog(e.bed.Manager, ""), e.bed.Close())
	if e.vault != nil {
		err = errors.Join(err, e.vault.Close())
	}
	return err
}

func (e *environment) keepLog(m *testbed.Manager, suffix string) error {
	if e.opts.Log == "" {
		return nil
	}
	text, err := m.Log()
	if err != nil {
		return err
	}
	return os.WriteFile(e.opts.Log+suffix, []byte(text), 0o600)
}

func (e *environment) setUpCluster(ctx context.Context) error {
	return errors.Join(
		e.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: runName}}),
		e.kube.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders", Namespace: runName}}),
		e.kube.Create(ctx, e.provider()),
	)
}

func (e *environment) provider() *v1alpha1.ClusterSecretProvider {
	p := &v1alpha1.ClusterSecretProvider{ObjectMeta: metav1.ObjectMeta{Name: runName}}
	p.Spec.Vault = &v1alpha1.VaultProvider{
		Address: e.vault.Address,
		Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: runName,
			ServiceAccountRef: &v1alpha1.ServiceAccountReference{Name: "orders", Audiences: []string{"vault"}},
		}},
		KeeperAuth: &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
			Mount: "kubernetes", Role: "keeper",
			ServiceAccountRef: &v1alpha1.ServiceAccountReference{Name: testbed.ManagerAccount,
				Namespace: testbed.ManagerNamespace, Audiences: []string{"vault"}},
		}},
	}
	return p
}

// roles of the database engine. Vault handles one user of a connection at a time, so each role has its own connection.
// Mutated objects share four roles, except those with slow creation.
func (e *environment) roles() map[string]testbed.DatabaseRole {
	roles := map[string]testbed.DatabaseRole{
		"expiring":      {DefaultTTL: expiringTTL, MaxTTL: 3 * expiringTTL},
		"bystander-90":  {DefaultTTL: 90 * time.Second, MaxTTL: 24 * time.Hour},
		"bystander-120": {DefaultTTL: 2 * time.Minute, MaxTTL: 24 * time.Hour},
		"bystander-180": {DefaultTTL: 3 * time.Minute, MaxTTL: 24 * time.Hour},
	}
	for i := range e.opts.Objects {
		if kindOf(i) == mutated {
			// The TTL exceeds the run, so a leaked lease still exists at the end.
			roles[roleOf(i)] = testbed.DatabaseRole{DefaultTTL: time.Hour, MaxTTL: 24 * time.Hour}
		}
	}
	return roles
}

func (e *environment) setUpVault(ctx context.Context) error {
	errs := []error{setUpIssuer(ctx, e.bed.Vault)}
	for name := range e.roles() {
		errs = append(errs, e.connect(ctx, name), e.writeRole(ctx, name, 0))
	}
	return errors.Join(errs...)
}

// setUpIssuer mounts the database engine and writes what the objects log in with.
func setUpIssuer(ctx context.Context, v *testbed.Vault) error {
	return errors.Join(
		v.Root.Sys().MountWithContext(ctx, runName, &api.MountInput{Type: "database"}),
		v.WritePolicy(ctx, runName, `path "`+runName+`/creds/*" { capabilities = ["read"] }`),
		v.WriteRole(ctx, "kubernetes", runName, testbed.KubernetesRole{
			ServiceAccounts: []string{"orders"}, Namespaces: []string{runName}, Policies: []string{runName},
			Audience: "vault", TTL: time.Hour, MaxTTL: 24 * time.Hour,
		}),
	)
}

// connect creates the connection of a role. Vault keeps no idle connection, because PostgreSQL's smart shutdown waits
// for each to close.
func (e *environment) connect(ctx context.Context, role string) error {
	return e.bed.Vault.ConnectDatabase(ctx, runName, role, e.bed.Postgres, map[string]any{
		"username_template":    userPrefix + "{{random 20}}-{{unix_time}}",
		"max_idle_connections": -1, "max_connection_lifetime": "5s",
	})
}

// writeRole writes a role whose creation statement takes at least delay.
func (e *environment) writeRole(ctx context.Context, name string, delay time.Duration) error {
	role := e.roles()[name]
	role.Connection = name
	role.CreationStatements = []string{
		fmt.Sprintf(`SELECT pg_sleep(%.3f);`, delay.Seconds()) +
			` CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
	}
	return e.bed.Vault.WriteDatabaseRole(ctx, runName, name, role)
}

// teamLabel is the label of all Secrets that the storm changes.
const teamLabel = "team"

// object returns a DynamicSecret that does not exist yet.
func object(name, role string, renewAtPercent int32) *v1alpha1.DynamicSecret {
	return &v1alpha1.DynamicSecret{
		ObjectMeta: metav1.ObjectMeta{Namespace: runName, Name: name},
		Spec: v1alpha1.DynamicSecretSpec{
			ProviderRef: &v1alpha1.ProviderReference{Kind: v1alpha1.ProviderKindCluster, Name: runName},
			Vault:       &v1alpha1.VaultRequest{Path: runName + "/creds/" + role},
			Lease: v1alpha1.LeaseSpec{
				RenewAtPercent: renewAtPercent, RevocationDeadline: &metav1.Duration{Duration: time.Hour},
			},
			Target:          v1alpha1.TargetSpec{Labels: map[string]string{teamLabel: runName}},
			Rotation:        v1alpha1.RotationSpec{Overlap: &metav1.Duration{Duration: time.Second}},
			RefreshInterval: &metav1.Duration{Duration: time.Hour},
		},
	}
}

func objectMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: runName, Name: name}
}

func (e *environment) objects(ctx context.Context) (map[string]*v1alpha1.DynamicSecret, error) {
	var list v1alpha1.DynamicSecretList
	err := e.kube.List(ctx, &list, client.InNamespace(runName))
	found := map[string]*v1alpha1.DynamicSecret{}
	for i := range list.Items {
		found[list.Items[i].Name] = &list.Items[i]
	}
	return found, err
}

// secrets returns the Secrets by the names of their objects: a renamed target has another name.
func (e *environment) secrets(ctx context.Context) (map[string]*corev1.Secret, error) {
	var list corev1.SecretList
	err := e.kube.List(ctx, &list, client.InNamespace(runName))
	found := map[string]*corev1.Secret{}
	for i := range list.Items {
		found[ownerOf(&list.Items[i])] = &list.Items[i]
	}
	return found, err
}

// secretVersions returns the UID and resource version of each Secret.
func (e *environment) secretVersions(ctx context.Context) (map[string]string, error) {
	secrets, err := e.secrets(ctx)
	found := map[string]string{}
	for name, secret := range secrets {
		found[name] = string(secret.UID) + "@" + secret.ResourceVersion
	}
	return found, err
}

// ledgers formats the records of objects. Lease ids and accessors are not confidential.
func (e *environment) ledgers(ctx context.Context, names []string) string {
	objects, err := e.objects(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, name := range names {
		d := objects[name]
		if d == nil {
			fmt.Fprintf(&b, "%s: does not exist\n", name)
			continue
		}
		fmt.Fprintf(&b, "%s: generation %d, deleted %v, annotations %v\n", name, d.Generation, d.DeletionTimestamp,
			d.Annotations)
		if d.Status.Attempt != nil {
			for i := range d.Status.Attempt.Records {
				writeRecord(&b, "attempt", &d.Status.Attempt.Records[i])
			}
		}
		writeRecord(&b, "lease", onlyLease(d))
		for i := range d.Status.Retiring {
			writeRecord(&b, "retiring", &d.Status.Retiring[i])
		}
		for _, c := range d.Status.Conditions {
			fmt.Fprintf(&b, "  %s is %s: %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	return b.String()
}

// onlyLease is the lease of an object with one source; nil: it has none.
func onlyLease(d *v1alpha1.DynamicSecret) *v1alpha1.LeaseRecord {
	if len(d.Status.Leases) == 0 {
		return nil
	}
	return &d.Status.Leases[0]
}

func writeRecord(b *strings.Builder, what string, rec *v1alpha1.LeaseRecord) {
	if rec == nil {
		return
	}
	fmt.Fprintf(b, "  %s: id %q, accessor %s, started %s, expires %v, revoke after %v, renewals %d, %s\n",
		what, rec.ID, rec.Handle(), rec.StartedAt.UTC().Format(time.TimeOnly), rec.ExpiresAt,
		rec.RevokeAfter, rec.Renewals, rec.Reason)
}
