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
	// scaleVerify is the manager's --verify-interval here.
	scaleVerify = 30 * time.Second
	// scaleSaved is the least life that a lease has when the backend is back: enough for a probe that is under way to
	// time out, and for the next.
	scaleSaved = 10 * time.Second
	// scaleRevoked is how many leases are revoked behind leasekeeper's back.
	scaleRevoked = 20
)

// Scale is what was seen of many leases.
type Scale struct {
	Leases int
	// Made is how long it took to issue and publish them all.
	Made time.Duration
	// Due is how many were due when the backend came back after an outage, Saved how long it took until all had been
	// renewed, and Lost how many had not been in time.
	Due, Lost int
	Saved     time.Duration
	// Probes is the most requests at once that were made to the backend while it was known to be down.
	Probes int
	// Issued counts the credentials that were issued because of the outage.
	Issued int
	// Noticed is how long it took until the last of the revoked leases was replaced, by so many lists in so many intervals.
	Noticed          time.Duration
	Lists, Intervals int
	// Mistaken counts the leases that were replaced and had not been revoked.
	Mistaken int
}

func (r Scale) rows(row func(string, any)) {
	tenth := func(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
	row(fmt.Sprintf("%d leases on %d roles", r.Leases, scaleRoles), "issued and published within "+tenth(r.Made).String())
	row("  an outage until they are due", fmt.Sprintf("%d due, all renewed within %s of the backend's return, lost %d, issued %d", r.Due, tenth(r.Saved), r.Lost, r.Issued))
	row("  requests at once while it is down", r.Probes)
	row("  revoked behind our back", fmt.Sprintf("%d noticed and replaced within %s (--verify-interval %s), %d by mistake", scaleRevoked, tenth(r.Noticed), scaleVerify, r.Mistaken))
	row("  lists for that", fmt.Sprintf("%d in %d intervals", r.Lists, r.Intervals))
}

// crowd is many objects on a few roles.
type crowd struct {
	*site
	manager *testbed.Manager
	// ttl of the leases: time to make them all, and for an outage until all of them are due.
	ttl time.Duration
	// leases by the name of the object, as they were first.
	leases map[string]string
}

// scale makes many leases, lets an outage last until they are due, and revokes some behind leasekeeper's back.
func (s *site) scale(ctx context.Context, report *Report) (err error) {
	if err := s.bed.Manager.Stop(); err != nil {
		return err
	}
	c := &crowd{site: s, ttl: 60*time.Second + time.Duration(s.opts.Scale)*120*time.Millisecond, leases: map[string]string{}}
	if c.manager, err = s.bed.NewManagerVia(ctx, nil, "--verify-interval="+scaleVerify.String()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.keepLog(c.manager, ".scale"), c.manager.Raced(), c.manager.Close()) }()
	if err := c.manager.Run(ctx); err != nil {
		return err
	}
	r := &report.Scale
	r.Leases = s.opts.Scale
	for _, part := range []func(context.Context, *Scale) error{c.make, c.outage, c.revocations} {
		if err := part(ctx, r); err != nil {
			report.Verdict = Broken
			return fmt.Errorf("%d leases: %w\n%s", r.Leases, err, c.manager.LastWords(20))
		}
	}
	if err := c.empty(ctx); err != nil {
		report.Verdict = Broken
		return err
	}
	if report.Verdict == "" {
		report.Verdict = Kept
	}
	return nil
}

func (c *crowd) make(ctx context.Context, r *Scale) error {
	say(c.opts, "%d leases on %d roles", c.opts.Scale, scaleRoles)
	v := c.bed.Vault
	if err := v.ConnectDatabase(ctx, place, "crowd", c.bed.Postgres, map[string]any{"username_template": userPrefix + "{{random 20}}-{{unix_time}}"}); err != nil {
		return err
	}
	for i := range scaleRoles {
		role := testbed.DatabaseRole{
			Connection: "crowd", DefaultTTL: c.ttl, MaxTTL: 24 * time.Hour, RevocationStatements: []string{`DROP ROLE IF EXISTS "{{name}}";`},
		}
		if err := v.WriteDatabaseRole(ctx, place, fmt.Sprintf("crowd-%d", i), role); err != nil {
			return err
		}
	}
	began := time.Now()
	for i := range c.opts.Scale {
		if err := c.kube.Create(ctx, object(fmt.Sprintf("crowd-%d", i), fmt.Sprintf("crowd-%d", i%scaleRoles), 67)); err != nil {
			return err
		}
	}
	err := eventuallyBy(ctx, time.Second, "all leases to be made", func() (string, error) {
		n, err := c.count(ctx, atRest)
		return short(n, c.opts.Scale), err
	})
	if err != nil {
		return err
	}
	r.Made = time.Since(began)
	return c.each(ctx, func(d *v1alpha1.DynamicSecret) { c.leases[d.Name] = d.Status.Lease.ID })
}

// short says how many are still missing.
func short(n, of int) string {
	if n == of {
		return ""
	}
	return fmt.Sprintf("%d of %d", n, of)
}

func (c *crowd) outage(ctx context.Context, r *Scale) error {
	mark, err := c.bed.Vault.Mark()
	if err != nil {
		return err
	}
	if err := c.vault.Break(testbed.Fault{Action: testbed.Hang}); err != nil {
		return err
	}
	// It is known to be down when the first request has waited in vain for --backend-timeout. Those who asked just before
	// that wait as long again, and a request that was sent while another was still served says nothing.
	nap(ctx, 3*backendTimeout+time.Second)
	c.vault.Peak()
	least := c.ttl
	err = eventuallyBy(ctx, time.Second, "the leases to be due", func() (string, error) {
		least = c.ttl
		err := c.each(ctx, func(d *v1alpha1.DynamicSecret) { least = min(least, time.Until(d.Status.Lease.ExpiresAt.Time)) })
		if least > scaleSaved {
			return fmt.Sprintf("the first lives for %s more", least), err
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
	back := time.Now()
	say(c.opts, "the backend is back, with %d leases due, the first to end in %.1f s", r.Due, least.Seconds())
	err = eventuallyBy(ctx, time.Second, "all leases to be renewed", func() (string, error) {
		n, err := c.count(ctx, func(d *v1alpha1.DynamicSecret) bool {
			return d.Status.Lease != nil && (d.Status.Lease.Renewals > 0 || d.Status.Lease.ID != c.leases[d.Name])
		})
		return short(n, r.Leases), err
	})
	if err != nil {
		return err
	}
	r.Saved = time.Since(back)
	if r.Lost, err = c.count(ctx, c.changed); err != nil {
		return err
	}
	issued, err := c.bed.Vault.Requests(mark, "^read "+place+"/creds/")
	r.Issued = len(issued)
	if r.Lost > 0 || r.Issued > 0 || r.Probes > 1 {
		err = errors.Join(err, fmt.Errorf("after an outage %d leases were lost and %d credentials issued; while it lasted %d requests at once were made", r.Lost, r.Issued, r.Probes))
	}
	return err
}

func (c *crowd) revocations(ctx context.Context, r *Scale) error {
	lists := func(since testbed.Mark) (int, error) {
		found, err := c.bed.Vault.Requests(since, "^list sys/leases/lookup/"+place+"/creds/crowd-")
		return len(found), err
	}
	mark, err := c.bed.Vault.Mark()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range scaleRevoked {
		lease := map[string]any{"lease_id": c.leases[fmt.Sprintf("crowd-%d", i)], "sync": true}
		if err := c.bed.Vault.Write(ctx, "sys/leases/revoke", lease); err != nil {
			return err
		}
	}
	err = eventuallyBy(ctx, time.Second, "the revoked leases to be replaced", func() (string, error) {
		n, err := c.count(ctx, c.changed)
		if err != nil || n < scaleRevoked {
			return short(n, scaleRevoked), err
		}
		r.Noticed = time.Since(began)
		n, err = c.count(ctx, atRest)
		return short(n, r.Leases), err
	})
	if err != nil {
		return err
	}
	r.Intervals = int(time.Since(began)/scaleVerify) + 1
	if r.Lists, err = lists(mark); err != nil {
		return err
	}
	n, err := c.count(ctx, c.changed)
	if r.Mistaken = n - scaleRevoked; err != nil || r.Mistaken > 0 {
		return errors.Join(err, fmt.Errorf("%d leases were replaced that nobody had revoked", r.Mistaken))
	}
	if r.Lists > r.Intervals*scaleRoles {
		return fmt.Errorf("%d lists in %d intervals, of %d roles", r.Lists, r.Intervals, scaleRoles)
	}
	return nil
}

// empty deletes the crowd and looks for what it has left behind.
func (c *crowd) empty(ctx context.Context) error {
	if err := c.deleteAll(ctx); err != nil {
		return err
	}
	return c.nothingLeft(ctx, &Report{})
}

// due says that the lease is past the point at which it is renewed at the latest.
func (c *crowd) due(d *v1alpha1.DynamicSecret) bool {
	return time.Since(d.Status.Lease.IssuedAt.Time) > c.ttl*67/100
}

func (c *crowd) changed(d *v1alpha1.DynamicSecret) bool {
	return d.Status.Lease == nil || d.Status.Lease.ID != c.leases[d.Name]
}

func (c *crowd) each(ctx context.Context, do func(d *v1alpha1.DynamicSecret)) error {
	var list v1alpha1.DynamicSecretList
	if err := c.kube.List(ctx, &list, client.InNamespace(place)); err != nil {
		return err
	}
	for i := range list.Items {
		if d := &list.Items[i]; strings.HasPrefix(d.Name, "crowd-") {
			do(d)
		}
	}
	return nil
}

func (c *crowd) count(ctx context.Context, is func(d *v1alpha1.DynamicSecret) bool) (n int, err error) {
	err = c.each(ctx, func(d *v1alpha1.DynamicSecret) {
		if is(d) {
			n++
		}
	})
	return n, err
}
