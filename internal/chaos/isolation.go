package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	isolationTTL = time.Minute
	// listDelay is how long the slow provider takes to list leases.
	listDelay = 9 * time.Second
	// leastLife is what must remain of a neighbour's lease at any time. It is renewed after two thirds of its life.
	leastLife = 10 * time.Second
)

// isolated are the kinds of objects in the isolation run, and how many of each.
var isolated = map[string]int{
	// healthy objects have leases of a minute.
	"healthy": 300,
	// slowlist objects too, on a provider that takes listDelay to list them.
	"slowlist": 50,
	// hangdb objects use a database that accepts connections and never responds, through the provider of the healthy.
	"hangdb": 100,
	// hangvault objects use another Vault, which never responds.
	"hangvault": 50,
}

// providerOf is the name of the provider of a kind.
func providerOf(kind string) string {
	if kind == "hangdb" {
		return "healthy"
	}
	return kind
}

// Isolation is the outcome of an isolation run.
type Isolation struct {
	// Hung is for how long the backends hung.
	Hung time.Duration
	// Neighbours are the objects on backends that responded; Changed those whose credential was replaced or lost.
	Neighbours, Changed int
	// Renewals of the neighbours.
	Renewals int
	// ClosestCall is the shortest remaining life that a neighbour's lease was seen to have.
	ClosestCall time.Duration
	// LookUps are the requests about single leases of the slow provider, which replace its lists.
	LookUps int
	// LateTime is how long a new object on the healthy database waited for its first credential meanwhile.
	LateTime time.Duration
}

func (r Isolation) rows(row func(string, any)) {
	row(fmt.Sprintf("%d objects on hanging backends", isolated["hangdb"]+isolated["hangvault"]),
		"for "+r.Hung.Round(time.Second).String())
	row(fmt.Sprintf("  %d neighbours with leases of %s", r.Neighbours, isolationTTL),
		fmt.Sprintf("%d changed, %d renewals, shortest remaining life %s", r.Changed, r.Renewals,
			r.ClosestCall.Round(time.Second)))
	row("  leases looked up on the slow provider", r.LookUps)
	row("  new object on the healthy database", "ready within "+r.LateTime.Round(100*time.Millisecond).String())
}

// isolationRun has objects on backends of which some hang.
type isolationRun struct {
	*environment
	database *testbed.TCPProxy
	// second is the Vault of the hangvault objects.
	second *testbed.Vault
	// vaults are proxies in front of the Vaults, by the name of their provider.
	vaults map[string]*testbed.Proxy
	leases map[string]string
}

// isolation lets a database and a Vault hang next to healthy ones.
func (e *environment) isolation(ctx context.Context, report *Report) (err error) {
	r := &isolationRun{environment: e, vaults: map[string]*testbed.Proxy{}, leases: map[string]string{}}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, step := range []func(context.Context, *Isolation) error{r.prepare, r.issueAll, r.hang, r.recover} {
		if err := step(ctx, &report.Isolation); err != nil {
			report.Verdict = Broken
			return fmt.Errorf("isolation: %w\n%s", err, e.bed.Manager.LastWords(20))
		}
	}
	if report.Verdict == "" {
		report.Verdict = Kept
	}
	return nil
}

func (r *isolationRun) close() (err error) {
	if r.database != nil {
		err = r.database.Close()
	}
	for _, proxy := range r.vaults {
		err = errors.Join(err, proxy.Close())
	}
	if r.second != nil {
		err = errors.Join(err, r.second.Close())
	}
	return err
}

// startSecond starts another Vault for the same cluster.
func (r *isolationRun) startSecond(ctx context.Context) (err error) {
	r.second, err = testbed.StartVault(ctx, testbed.VaultOptions{MaxRequestDuration: vaultLimit})
	if err != nil {
		return err
	}
	bed := testbed.Bed{Plane: r.bed.Plane, Vault: r.second}
	return errors.Join(bed.SetUpVault(ctx), setUpIssuer(ctx, r.second))
}

// prepare starts the other Vault and the proxies, and creates a role for each kind of object, and the providers.
func (r *isolationRun) prepare(ctx context.Context, _ *Isolation) (err error) {
	if r.database, err = testbed.StartTCPProxy(r.bed.Postgres.Address); err != nil {
		return err
	}
	if err := r.startSecond(ctx); err != nil {
		return err
	}
	hanging := *r.bed.Postgres
	hanging.Address = r.database.Address
	for kind := range isolated {
		server, vault := r.bed.Postgres, r.bed.Vault
		switch kind {
		case "hangdb":
			server = &hanging
		case "hangvault":
			vault = r.second
		}
		settings := map[string]any{"username_template": userPrefix + "{{random 20}}-{{unix_time}}"}
		role := testbed.DatabaseRole{Connection: kind, DefaultTTL: isolationTTL, MaxTTL: 24 * time.Hour}
		err = errors.Join(
			vault.ConnectDatabase(ctx, runName, kind, server, settings),
			vault.WriteDatabaseRole(ctx, runName, kind, role),
		)
		if err == nil && providerOf(kind) == kind {
			err = r.createProvider(ctx, kind, vault)
		}
		if err != nil {
			return err
		}
	}
	return r.vaults["slowlist"].Break(testbed.Fault{
		Path: "^/v1/sys/leases/lookup/", Action: testbed.Delay, After: listDelay,
	})
}

// createProvider creates a provider with a proxy in front of its Vault.
func (r *isolationRun) createProvider(ctx context.Context, name string, vault *testbed.Vault) error {
	proxy, err := testbed.StartProxy(vault.Address, testbed.ProxyOptions{})
	if err != nil {
		return err
	}
	r.vaults[name] = proxy
	p := r.provider()
	p.Name, p.Spec.Vault.Address = name, proxy.Address
	return r.kube.Create(ctx, p)
}

// issueAll creates all objects but the last half of those whose backend will hang.
func (r *isolationRun) issueAll(ctx context.Context, _ *Isolation) error {
	total := 0
	for kind, n := range isolated {
		if strings.HasPrefix(kind, "hang") {
			n /= 2
		}
		total += n
		if err := r.createObjects(ctx, kind, 0, n); err != nil {
			return err
		}
	}
	err := pollEvery(ctx, time.Second, "all leases to be issued", func() (string, error) {
		n, err := r.ready(ctx, "")
		return missing(n, total), err
	})
	if err != nil {
		return err
	}
	return r.forEach(ctx, "", func(d *v1alpha1.DynamicSecret) { r.leases[d.Name] = onlyLease(d).ID })
}

func (r *isolationRun) createObjects(ctx context.Context, kind string, from, to int) error {
	for i := from; i < to; i++ {
		d := object(fmt.Sprintf("%s-%d", kind, i), kind, 67)
		d.Spec.ProviderRef.Name = providerOf(kind)
		if err := r.kube.Create(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// hang watches the neighbours while the backends hang.
func (r *isolationRun) hang(ctx context.Context, out *Isolation) error {
	logf(r.opts, "a database and a Vault hang for %s", r.opts.Isolation)
	began := time.Now()
	r.database.Swallow()
	if err := r.vaults["hangvault"].Break(testbed.Fault{Action: testbed.Hang}); err != nil {
		return err
	}
	for _, kind := range []string{"hangdb", "hangvault"} {
		if err := r.createObjects(ctx, kind, isolated[kind]/2, isolated[kind]); err != nil {
			return err
		}
	}
	sleep(ctx, 30*time.Second)
	late := time.Now()
	if err := r.createObjects(ctx, "healthy", isolated["healthy"], isolated["healthy"]+1); err != nil {
		return err
	}
	err := eventually(ctx, "a new object to be ready", func() (string, error) {
		n, err := r.ready(ctx, fmt.Sprintf("healthy-%d", isolated["healthy"]))
		return missing(n, 1), err
	})
	if err != nil {
		return err
	}
	out.LateTime, out.ClosestCall = time.Since(late), isolationTTL
	for time.Since(began) < r.opts.Isolation {
		err := r.neighbours(ctx, func(d *v1alpha1.DynamicSecret) {
			if l := onlyLease(d); l != nil {
				out.ClosestCall = min(out.ClosestCall, time.Until(l.ExpiresAt.Time))
			}
		})
		if err != nil || !sleep(ctx, 2*time.Second) {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	out.Hung = time.Since(began)
	err = r.neighbours(ctx, func(d *v1alpha1.DynamicSecret) {
		out.Neighbours++
		if l := onlyLease(d); l == nil || l.ID != r.leases[d.Name] {
			out.Changed++
		} else {
			out.Renewals += int(l.Renewals)
		}
	})
	if err != nil {
		return err
	}
	if out.LookUps, err = r.lookUpsSince(began); err != nil {
		return err
	}
	return out.broken()
}

// broken says which promises were not kept while the backends hung.
func (r Isolation) broken() error {
	var errs []error
	if r.Changed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d credentials on healthy backends were replaced or lost",
			r.Changed, r.Neighbours))
	}
	if r.ClosestCall < leastLife {
		errs = append(errs, fmt.Errorf("a lease on a healthy backend had only %s left, want at least %s",
			r.ClosestCall.Round(time.Second), leastLife))
	}
	if r.LookUps == 0 {
		errs = append(errs, errors.New("the leases that could not be listed in time were never looked up"))
	}
	return errors.Join(errs...)
}

// lookUpsSince counts the look-ups of leases of the slow provider. Only their verification sends them.
func (r *isolationRun) lookUpsSince(began time.Time) (n int, err error) {
	requests, err := r.vaults["slowlist"].Requests("^[A-Z]+ /v1/sys/leases/lookup$")
	for _, request := range requests {
		if request.At.After(began) {
			n++
		}
	}
	return n, err
}

// recover ends the faults, and waits until all objects are Ready; then it deletes them.
func (r *isolationRun) recover(ctx context.Context, _ *Isolation) error {
	r.database.Forward()
	for _, proxy := range r.vaults {
		proxy.Clear()
	}
	total := 1
	for _, n := range isolated {
		total += n
	}
	err := pollEvery(ctx, time.Second, "all objects to be ready again", func() (string, error) {
		n, err := r.ready(ctx, "")
		return missing(n, total), err
	})
	if err != nil {
		return err
	}
	if err := r.deleteAll(ctx); err != nil {
		return err
	}
	return r.awaitNothingLeft(ctx, &Report{})
}

// neighbours visits the objects on backends that respond, except the one that was created late.
func (r *isolationRun) neighbours(ctx context.Context, visit func(*v1alpha1.DynamicSecret)) error {
	return r.forEach(ctx, "", func(d *v1alpha1.DynamicSecret) {
		if !strings.HasPrefix(d.Name, "hang") && r.leases[d.Name] != "" {
			visit(d)
		}
	})
}

// ready counts the Ready objects, or that of the name.
func (r *isolationRun) ready(ctx context.Context, name string) (n int, err error) {
	err = r.forEach(ctx, name, func(d *v1alpha1.DynamicSecret) {
		if meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition) {
			n++
		}
	})
	return n, err
}

// forEach visits the objects of the run, or that of the name.
func (r *isolationRun) forEach(ctx context.Context, name string, visit func(*v1alpha1.DynamicSecret)) error {
	var list v1alpha1.DynamicSecretList
	if err := r.kube.List(ctx, &list, client.InNamespace(runName)); err != nil {
		return err
	}
	for i := range list.Items {
		if d := &list.Items[i]; isolated[d.Spec.ProviderRef.Name] > 0 && (name == "" || d.Name == name) {
			visit(d)
		}
	}
	return nil
}
