package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// minLeaseLife starts a quiet period: when a bystander's lease has less left, the storm injects no fault until the
// lease is renewed. No operator could save a lease that expires during an outage, and a slow machine prolongs outages.
// A missing renewal is still detected, because the lease expires and the bystander changes.
const minLeaseLife = 45 * time.Second

func (s *storm) quietPeriod() bool { return s.history.shortestLife() < minLeaseLife }

// awaitFaultsAllowed waits until no quiet period remains. It returns false once the storm is over.
func (s *storm) awaitFaultsAllowed(stormCtx context.Context) bool {
	for s.quietPeriod() && sleep(stormCtx, 100*time.Millisecond) {
	}
	return stormCtx.Err() == nil
}

// holdOutage waits for d, or until a quiet period begins.
func (s *storm) holdOutage(stormCtx context.Context, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && !s.quietPeriod(); {
		if !sleep(stormCtx, min(100*time.Millisecond, time.Until(end))) {
			return
		}
	}
}

// killManager kills the manager every one to four seconds and restarts it. Sometimes it pauses the manager first. Some
// runs of the manager are too short to reconcile, so those that do are counted.
func (s *storm) killManager(stormCtx, _ context.Context, random *rand.Rand) error {
	m := s.bed.Manager
	for killed := time.Now(); ; {
		end := killed.Add(randomDuration(random, time.Second, 4*time.Second))
		if oneIn(random, 3) {
			if err := s.pauseManager(stormCtx, end, random); err != nil {
				return err
			}
		}
		if err := s.keepManagerRunning(stormCtx, end); err != nil || stormCtx.Err() != nil {
			return err
		}
		if s.managerReconciled() {
			s.count(killsAtWork)
		}
		if err := m.Kill(); err != nil {
			return err
		}
		s.recordKill(time.Since(killed))
		killed = time.Now()
		if oneIn(random, 3) {
			sleep(stormCtx, randomDuration(random, time.Millisecond, 800*time.Millisecond))
		}
		if err := m.Start(); err != nil {
			return err
		}
	}
}

// keepManagerRunning waits until end and for the quiet period after it. Like Kubernetes, it restarts a manager that
// exits, for example because it cannot reach the API server at startup.
func (s *storm) keepManagerRunning(stormCtx context.Context, end time.Time) error {
	for time.Now().Before(end) || s.quietPeriod() {
		if !sleep(stormCtx, min(100*time.Millisecond, max(time.Millisecond, time.Until(end)))) {
			return nil
		}
		if !s.bed.Manager.Running() {
			s.count(managerExits)
			if err := s.bed.Manager.Start(); err != nil {
				return err
			}
		}
	}
	return nil
}

// managerReconciled reports whether the running manager has reconciled an object.
func (s *storm) managerReconciled() bool {
	const series = `controller_runtime_reconcile_total{controller="dynamicsecret",result="requeue_after"}`
	n, err := s.bed.Manager.Metric(series)
	return err == nil && n > 0
}

// pauseManager pauses the manager and resumes it before end.
func (s *storm) pauseManager(stormCtx context.Context, end time.Time, random *rand.Rand) error {
	life := time.Until(end)
	if life < 500*time.Millisecond {
		return nil
	}
	sleep(stormCtx, randomDuration(random, life/4, life/2))
	if !s.bed.Manager.Running() {
		return nil
	}
	if err := s.bed.Manager.Pause(); err != nil {
		return err
	}
	s.holdOutage(stormCtx, randomDuration(random, life/8, life*3/8))
	s.count(pauses)
	return s.bed.Manager.Resume()
}

// stopServers stops or pauses a few servers at once, then leaves all of them running for a while so that due leases
// can be renewed.
func (s *storm) stopServers(stormCtx, ctx context.Context, random *rand.Rand) error {
	for sleep(stormCtx, randomDuration(random, 4*time.Second, 10*time.Second)) && s.awaitFaultsAllowed(stormCtx) {
		kill, pause := oneIn(random, 3), randomDuration(random, time.Second, 4*time.Second)
		outages := []func(down time.Duration) error{
			func(down time.Duration) error { return s.stopPostgres(stormCtx, ctx, down) },
			func(time.Duration) error { return s.pauseAPIServer(stormCtx, pause) },
			func(down time.Duration) error { return s.stallWatches(stormCtx, down+time.Second) },
		}
		if s.bed.Cluster == nil { // otherwise see loseActiveVaults
			outages = append(outages,
				func(down time.Duration) error { return s.stopVault(stormCtx, ctx, kill, down) })
		}
		errs := make([]error, len(outages))
		var all sync.WaitGroup
		first := random.IntN(len(outages))
		for i, outage := range outages {
			delay := randomDuration(random, time.Millisecond, 2*time.Second)
			down := randomDuration(random, time.Millisecond, 4*time.Second)
			if also := oneIn(random, 3); i == first || also {
				all.Go(func() {
					sleep(stormCtx, delay)
					errs[i] = outage(down)
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

// stopVault drains Vault as a load balancer would, then stops or kills it. Requests in progress finish, but their
// responses are lost. If Vault stopped while it created a database user, the user could remain without a lease. That
// would be Vault's fault, and leasekeeper could not undo it.
func (s *storm) stopVault(stormCtx, ctx context.Context, kill bool, down time.Duration) error {
	defer s.timeOutage("Vault")()
	if err := s.vault.RefuseConnections(); err != nil {
		return err
	}
	s.vault.Wait()
	s.vaultRunning.Lock()
	defer s.vaultRunning.Unlock()
	name, stop := "Vault stopped", s.bed.Vault.Stop
	if kill {
		name, stop = "Vault killed", s.bed.Vault.Kill
	}
	if err := stop(); err != nil {
		return err
	}
	s.count(name)
	s.holdOutage(stormCtx, down)
	if err := s.bed.Vault.Start(ctx); err != nil {
		return err
	}
	return s.vault.Accept()
}

// stopPostgres uses the smart shutdown, which lets transactions finish. A PostgreSQL that stopped during a COMMIT could
// leave a user unknown to Vault; see stopVault.
func (s *storm) stopPostgres(stormCtx, ctx context.Context, down time.Duration) error {
	defer s.timeOutage("PostgreSQL")()
	draining, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.bed.Postgres.Drain(draining); err != nil {
		return err
	}
	s.count("PostgreSQL stopped")
	s.holdOutage(stormCtx, down)
	return s.bed.Postgres.Start(ctx)
}

func (s *storm) pauseAPIServer(stormCtx context.Context, d time.Duration) error {
	defer s.timeOutage("API server")()
	if err := s.bed.Plane.Pause(); err != nil {
		return err
	}
	s.count("API server paused")
	s.holdOutage(stormCtx, d)
	return s.bed.Plane.Resume()
}

func (s *storm) stallWatches(stormCtx context.Context, d time.Duration) error {
	if err := s.bed.API.Break(stalledWatches); err != nil {
		return err
	}
	s.count("watches stalled")
	s.holdOutage(stormCtx, d)
	s.bed.API.Clear()
	return nil
}

// slowDownCreation makes Vault need up to three seconds to create some users, so that the manager is often killed
// during an issuance.
func (s *storm) slowDownCreation(stormCtx, ctx context.Context, random *rand.Rand) error {
	var roles []string
	for i := range s.opts.Objects {
		if isSlow(i) {
			roles = append(roles, roleOf(i))
		}
	}
	pause := func() bool { return sleep(stormCtx, randomDuration(random, time.Second, 3*time.Second)) }
	for len(roles) > 0 && pause() && s.awaitFaultsAllowed(stormCtx) {
		role, delay := roles[random.IntN(len(roles))], randomDuration(random, time.Millisecond, 3*time.Second)
		if oneIn(random, 4) {
			delay = 0
		}
		if !s.vaultRunning.TryRLock() {
			continue
		}
		err := s.writeRole(ctx, role, delay)
		s.vaultRunning.RUnlock()
		if err != nil {
			return err
		}
		s.count("creation statement made slow or fast")
	}
	return nil
}
