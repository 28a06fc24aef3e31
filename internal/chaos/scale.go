package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

const (
	scaleRoles = 5
	// scaleVerify is the manager's --verify-interval.
	scaleVerify = 30 * time.Second
	// scaleMinLife is the shortest remaining life of a lease when the backend returns. The running probe can time out
	// then, and a busy machine needs the rest for hundreds of renewals.
	scaleMinLife = 20 * time.Second
	// scaleRevoked is the number of leases revoked out of band.
	scaleRevoked = 20
)

// Scale is the outcome of a scale run.
type Scale struct {
	Leases int
	// IssueTime is the time to issue and publish all credentials.
	IssueTime time.Duration
	// Due is the number of leases due when the backend returned, and Lost those not renewed in time.
	Due, Lost int
	// RenewTime is the time from the backend's return until all leases were renewed.
	RenewTime time.Duration
	// Probes is the peak of concurrent requests during the outage.
	Probes int
	// Issued credentials because of the outage.
	Issued int
	// DetectTime is the time until the last revoked lease was replaced.
	DetectTime time.Duration
	// Lists is the number of LIST requests in Intervals of --verify-interval.
	Lists, Intervals int
	// Mistakes are leases that were replaced but not revoked.
	Mistakes int
}

func (r Scale) rows(row func(string, any)) {
	tenth := func(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
	row(fmt.Sprintf("%d leases on %d roles", r.Leases, scaleRoles),
		"issued and published within "+tenth(r.IssueTime).String())
	row("  outage until they are due",
		fmt.Sprintf("%d due, renewed within %s, %d lost, %d issued", r.Due, tenth(r.RenewTime), r.Lost, r.Issued))
	row("  concurrent requests during the outage", r.Probes)
	row("  revoked out of band",
		fmt.Sprintf("%d replaced within %s (--verify-interval %s), %d by mistake", scaleRevoked, tenth(r.DetectTime),
			scaleVerify, r.Mistakes))
	row("  LIST requests to detect them", fmt.Sprintf("%d in %d intervals", r.Lists, r.Intervals))
}

// scaleRun is many objects on a few roles.
type scaleRun struct {
	*environment
	manager *testbed.Manager
	// ttl leaves time to issue all leases and for an outage until all are due.
	ttl time.Duration
	// leases are the first lease ids, by object.
	leases map[string]string
}

// scale issues many leases, makes an outage last until they are due, and revokes some out of band.
func (e *environment) scale(ctx context.Context, report *Report) (err error) {
	if err := e.bed.Manager.Stop(); err != nil {
		return err
	}
	ttl := 60*time.Second + time.Duration(e.opts.Scale)*120*time.Millisecond
	c := &scaleRun{environment: e, ttl: ttl, leases: map[string]string{}}
	if c.manager, err = e.bed.NewManagerVia(ctx, nil, "--verify-interval="+scaleVerify.String()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.keepLog(c.manager, ".scale"), c.manager.Raced(), c.manager.Close()) }()
	if err := c.manager.Run(ctx); err != nil {
		return err
	}
	r := &report.Scale
	r.Leases = e.opts.Scale
	for _, step := range []func(context.Context, *Scale) error{c.issueAll, c.outage, c.revocations} {
		if err := step(ctx, r); err != nil {
			report.Verdict = Broken
			return fmt.Errorf("%d leases: %w\n%s", r.Leases, err, c.manager.LastWords(20))
		}
	}
	if err := c.cleanUp(ctx); err != nil {
		report.Verdict = Broken
		return err
	}
	if report.Verdict == "" {
		report.Verdict = Kept
	}
	return nil
}

func (c *scaleRun) issueAll(ctx context.Context, r *Scale) error {
	logf(c.opts, "%d leases on %d roles", c.opts.Scale, scaleRoles)
	v := c.bed.Vault
	settings := map[string]any{"username_template": userPrefix + "{{random 20}}-{{unix_time}}"}
	if err := v.ConnectDatabase(ctx, runName, "scale", c.bed.Postgres, settings); err != nil {
		return err
	}
	for i := range scaleRoles {
		role := testbed.DatabaseRole{Connection: "scale", DefaultTTL: c.ttl, MaxTTL: 24 * time.Hour}
		if err := v.WriteDatabaseRole(ctx, runName, fmt.Sprintf("scale-%d", i), role); err != nil {
			return err
		}
	}
	began := time.Now()
	for i := range c.opts.Scale {
		o := object(fmt.Sprintf("scale-%d", i), fmt.Sprintf("scale-%d", i%scaleRoles), 67)
		if err := c.kube.Create(ctx, o); err != nil {
			return err
		}
	}
	err := pollEvery(ctx, time.Second, "all leases to be issued", func() (string, error) {
		n, err := c.count(ctx, settled)
		return missing(n, c.opts.Scale), err
	})
	if err != nil {
		return err
	}
	r.IssueTime = time.Since(began)
	return c.forEach(ctx, func(d *v1alpha1.DynamicSecret) { c.leases[d.Name] = onlyLease(d).ID })
}

// missing formats n of total; empty if complete.
func missing(n, total int) string {
	if n == total {
		return ""
	}
	return fmt.Sprintf("%d of %d", n, total)
}

func (c *scaleRun) outage(ctx context.Context, r *Scale) error {
	mark, err := c.bed.Vault.Mark()
	if err != nil {
		return err
	}
	if err := c.vault.Break(testbed.Fault{Action: testbed.Hang}); err != nil {
		return err
	}
	// The outage is known after the first request times out. Concurrent requests time out later, so measure the peak
	// after that.
	sleep(ctx, 3*backendTimeout+time.Second)
	c.vault.Peak()
	least := c.ttl
	err = pollEvery(ctx, time.Second, "the leases to be due", func() (string, error) {
		least = c.ttl
		err := c.forEach(ctx, func(d *v1alpha1.DynamicSecret) {
			least = min(least, time.Until(onlyLease(d).ExpiresAt.Time))
		})
		if least > scaleMinLife {
			return fmt.Sprintf("the first expires in %s", least), err
		}
		return "", err
	})
	if err != nil {
		return err
	}
	r.Probes = c.vault.Peak()
	if r.Due, err = c.count(ctx, c.due); err != nil {
		return err
	}
	c.vault.Clear()
	returned := time.Now()
	logf(c.opts, "backend is back: %d leases due, the first expires in %.1f s", r.Due, least.Seconds())
	err = pollEvery(ctx, time.Second, "all leases to be renewed", func() (string, error) {
		n, err := c.count(ctx, c.renewedOrReplaced)
		return missing(n, r.Leases), err
	})
	if err != nil {
		return err
	}
	r.RenewTime = time.Since(returned)
	if r.Lost, err = c.count(ctx, c.changed); err != nil {
		return err
	}
	issued, err := c.bed.Vault.Requests(mark, "^read "+runName+"/creds/")
	r.Issued = len(issued)
	if r.Lost > 0 || r.Issued > 0 || r.Probes > 1 {
		err = errors.Join(err,
			fmt.Errorf("the outage cost %d leases and %d issuances, with up to %d concurrent requests",
				r.Lost, r.Issued, r.Probes))
	}
	return err
}

func (c *scaleRun) revocations(ctx context.Context, r *Scale) error {
	lists := func(since testbed.Mark) (int, error) {
		found, err := c.bed.Vault.Requests(since, "^list sys/leases/lookup/"+runName+"/creds/scale-")
		return len(found), err
	}
	mark, err := c.bed.Vault.Mark()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range scaleRevoked {
		lease := map[string]any{"lease_id": c.leases[fmt.Sprintf("scale-%d", i)], "sync": true}
		if err := c.bed.Vault.Write(ctx, "sys/leases/revoke", lease); err != nil {
			return err
		}
	}
	err = pollEvery(ctx, time.Second, "the revoked leases to be replaced", func() (string, error) {
		n, err := c.count(ctx, c.changed)
		if err != nil || n < scaleRevoked {
			return missing(n, scaleRevoked), err
		}
		r.DetectTime = time.Since(began)
		n, err = c.count(ctx, settled)
		return missing(n, r.Leases), err
	})
	if err != nil {
		return err
	}
	r.Intervals = int(time.Since(began)/scaleVerify) + 1
	if r.Lists, err = lists(mark); err != nil {
		return err
	}
	n, err := c.count(ctx, c.changed)
	if r.Mistakes = n - scaleRevoked; err != nil || r.Mistakes > 0 {
		return errors.Join(err, fmt.Errorf("%d leases were replaced but not revoked", r.Mistakes))
	}
	if r.Lists > r.Intervals*scaleRoles {
		return fmt.Errorf("%d LIST requests in %d intervals for %d roles", r.Lists, r.Intervals, scaleRoles)
	}
	return nil
}

// cleanUp deletes the objects and verifies that nothing is left.
func (c *scaleRun) cleanUp(ctx context.Context) error {
	if err := c.deleteAll(ctx); err != nil {
		return err
	}
	return c.awaitNothingLeft(ctx, &Report{})
}

// due reports whether the lease is past its latest renewal time.
func (c *scaleRun) due(d *v1alpha1.DynamicSecret) bool {
	return time.Since(onlyLease(d).IssuedAt.Time) > c.ttl*67/100
}

func (c *scaleRun) renewedOrReplaced(d *v1alpha1.DynamicSecret) bool {
	l := onlyLease(d)
	return l != nil && (l.Renewals > 0 || l.ID != c.leases[d.Name])
}

func (c *scaleRun) changed(d *v1alpha1.DynamicSecret) bool {
	return onlyLease(d) == nil || onlyLease(d).ID != c.leases[d.Name]
}

func (c *scaleRun) forEach(ctx context.Context, visit func(d *v1alpha1.DynamicSecret)) error {
	var list v1alpha1.DynamicSecretList
	if err := c.kube.List(ctx, &list, client.InNamespace(runName)); err != nil {
		return err
	}
	for i := range list.Items {
		if d := &list.Items[i]; strings.HasPrefix(d.Name, "scale-") {
			visit(d)
		}
	}
	return nil
}

func (c *scaleRun) count(ctx context.Context, matches func(d *v1alpha1.DynamicSecret) bool) (n int, err error) {
	err = c.forEach(ctx, func(d *v1alpha1.DynamicSecret) {
		if matches(d) {
			n++
		}
	})
	return n, err
}
