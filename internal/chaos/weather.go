package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// mercy is the life that a bystander's lease must have left for the storm to go on. No outage may be longer than what is
// left of a lease: nothing could save it then. On a slow machine an outage is longer than it was meant to be, and with many
// of them in a row no renewal comes through, so the storm holds its breath until the lease is renewed. A renewal that does
// not come although everything is up is found out all the same: the lease ends, and its bystander changes.
const mercy = 45 * time.Second

func (s *storm) mercyDue() bool { return s.book.leastLife() < mercy }

// holdBreath waits until mercy is no longer due, and says whether the storm goes on.
func (s *storm) holdBreath(raging context.Context) bool {
	for s.mercyDue() && nap(raging, 100*time.Millisecond) {
	}
	return raging.Err() == nil
}

// away lets something be away for so long, or less where mercy is due.
func (s *storm) away(raging context.Context, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && !s.mercyDue(); {
		if !nap(raging, min(100*time.Millisecond, time.Until(end))) {
			return
		}
	}
}

// harryManager kills the manager every one to four seconds by the clock, and starts it again at once or after a moment. Some
// lives come to no work: that is counted. In some it is paused and woken before it is killed.
func (s *storm) harryManager(raging, _ context.Context, random *rand.Rand) error {
	m := s.bed.Manager
	for killed := time.Now(); ; {
		end := killed.Add(between(random, time.Second, 4*time.Second))
		if one(random, 3) {
			if err := s.sleepAndWake(raging, end, random); err != nil {
				return err
			}
		}
		if err := s.letLive(raging, end); err != nil || raging.Err() != nil {
			return err
		}
		if s.works() {
			s.count(worked)
		}
		if err := m.Kill(); err != nil {
			return err
		}
		s.killedAfter(time.Since(killed))
		killed = time.Now()
		if one(random, 3) {
			nap(raging, between(random, time.Millisecond, 800*time.Millisecond))
		}
		if err := m.Start(); err != nil {
			return err
		}
	}
}

// letLive leaves the manager alone until then, and until mercy is no longer due. One that has ended, as it does where it
// cannot speak to the API server at its start, is started again, as Kubernetes does.
func (s *storm) letLive(raging context.Context, end time.Time) error {
	for time.Now().Before(end) || s.mercyDue() {
		if !nap(raging, min(100*time.Millisecond, max(time.Millisecond, time.Until(end)))) {
			return nil
		}
		if !s.bed.Manager.Running() {
			s.count(endedByItself)
			if err := s.bed.Manager.Start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// works says that the manager has looked at an object.
func (s *storm) works() bool {
	n, err := s.bed.Manager.Metric(`controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`)
	return err == nil && n > 0
}

// sleepAndWake pauses the manager somewhere in its life, so that it wakes up before the end of it.
func (s *storm) sleepAndWake(raging context.Context, end time.Time, random *rand.Rand) error {
	life := time.Until(end)
	if life < 500*time.Millisecond {
		return nil
	}
	nap(raging, between(random, life/4, life/2))
	if !s.bed.Manager.Running() {
		return nil
	}
	if err := s.bed.Manager.Pause(); err != nil {
		return err
	}
	s.away(raging, between(random, life/8, life*3/8))
	s.count(pauses)
	return s.bed.Manager.Resume()
}

// takeServersAway takes some of the servers away at once, and leaves them all alone for a while after that: a lease that is
// due for renewal must find a moment in which that can be done.
func (s *storm) takeServersAway(raging, ctx context.Context, random *rand.Rand) error {
	for nap(raging, between(random, 4*time.Second, 10*time.Second)) && s.holdBreath(raging) {
		kill, sleep := one(random, 3), between(random, time.Second, 4*time.Second)
		kinds := []func(down time.Duration) error{
			func(down time.Duration) error { return s.vaultAway(raging, ctx, kill, down) },
			func(down time.Duration) error { return s.postgresAway(raging, ctx, down) },
			func(time.Duration) error { return s.apiServerAsleep(raging, sleep) },
			func(down time.Duration) error { return s.watchesStale(raging, down+time.Second) },
		}
		errs := make([]error, len(kinds))
		var all sync.WaitGroup
		certain := random.IntN(len(kinds))
		for i, kind := range kinds {
			late, down, too := between(random, time.Millisecond, 2*time.Second), between(random, time.Millisecond, 4*time.Second), one(random, 3)
			if i == certain || too {
				all.Go(func() {
					nap(raging, late)
					errs[i] = kind(down)
				})
			}
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// vaultAway stops Vault as a load balancer drains it: connections are refused, requests that are under way come to their
// end, with nobody left to hear the answer, and then Vault goes, in order or by a crash. A Vault that goes in the middle
// of a request which makes a database user may leave that user without a lease; that is Vault's own doing, nothing before
// it can undo it, and it must not be charged to leasekeeper.
func (s *storm) vaultAway(raging, ctx context.Context, kill bool, down time.Duration) error {
	defer s.timed("Vault")()
	if err := s.vault.RefuseConnections(); err != nil {
		return err
	}
	s.vault.Wait()
	s.root.Lock()
	defer s.root.Unlock()
	what, end := "Vault stopped", s.bed.Vault.Stop
	if kill {
		what, end = "Vault killed", s.bed.Vault.Kill
	}
	if err := end(); err != nil {
		return err
	}
	s.count(what)
	s.away(raging, down)
	if err := s.bed.Vault.Start(ctx); err != nil {
		return err
	}
	return s.vault.Accept()
}

// postgresAway stops PostgreSQL by its smart shutdown, which lets transactions come to their end. One that goes in the
// middle of a COMMIT may leave a user that Vault knows nothing of: see vaultAway.
func (s *storm) postgresAway(raging, ctx context.Context, down time.Duration) error {
	defer s.timed("PostgreSQL")()
	draining, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.bed.Postgres.Drain(draining); err != nil {
		return err
	}
	s.count("PostgreSQL stopped")
	s.away(raging, down)
	return s.bed.Postgres.Start(ctx)
}

func (s *storm) apiServerAsleep(raging context.Context, asleep time.Duration) error {
	defer s.timed("API server")()
	if err := s.bed.Plane.Pause(); err != nil {
		return err
	}
	s.count("API server paused")
	s.away(raging, asleep)
	return s.bed.Plane.Resume()
}

func (s *storm) watchesStale(raging context.Context, asleep time.Duration) error {
	if err := s.bed.API.Break(stalledWatches); err != nil {
		return err
	}
	s.count("watches made stale")
	s.away(raging, asleep)
	s.bed.API.Clear()
	return nil
}

// slowStatements lets the making of some users take up to three seconds, which is in the middle of most lives of a manager.
func (s *storm) slowStatements(raging, ctx context.Context, random *rand.Rand) error {
	var slow []string
	for i := range s.opts.Objects {
		if isSlow(i) {
			slow = append(slow, roleOf(i))
		}
	}
	for len(slow) > 0 && nap(raging, between(random, time.Second, 3*time.Second)) && s.holdBreath(raging) {
		role, takes := slow[random.IntN(len(slow))], between(random, time.Millisecond, 3*time.Second)
		if one(random, 4) {
			takes = 0
		}
		if !s.root.TryRLock() {
			continue // Vault is away
		}
		err := s.writeRole(ctx, role, takes)
		s.root.RUnlock()
		if err != nil {
			return err
		}
		s.count("creation statement made slow or quick")
	}
	return nil
}
