package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// storm injects faults and mutates objects at the same time.
type storm struct {
	*environment
	history *history

	mu     sync.Mutex
	counts map[string]int
	// longestOutage by server.
	longestOutage map[string]time.Duration
	// quiet is the total length of quiet periods.
	quiet time.Duration
	// killIntervals are the times between kills of the manager.
	killIntervals []time.Duration
}

// Names of counts.
const (
	kills        = "manager killed"
	killsAtWork  = "manager killed at work"
	pauses       = "manager paused and resumed"
	managerExits = "manager exited by itself and was restarted"
)

func (s *storm) count(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[name]++
}

func (s *storm) countOf(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[name]
}

func (s *storm) recordKill(interval time.Duration) {
	s.count(kills)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killIntervals = append(s.killIntervals, interval)
}

// timeOutage measures the outage of a server until the returned function is called.
func (s *storm) timeOutage(server string) (stop func()) {
	began := time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.longestOutage[server] = max(s.longestOutage[server], time.Since(began))
	}
}

// storm runs a storm, waits until all objects are settled, verifies the promises, deletes everything, and verifies that
// nothing is left.
func (e *environment) storm(ctx context.Context, report *Report) error {
	s := &storm{
		environment: e, history: newHistory(), counts: map[string]int{}, longestOutage: map[string]time.Duration{},
	}
	watchCtx, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	watchers.Go(func() { watchAll(watchCtx, e.kube, &corev1.SecretList{}, s.history.observeSecret) })
	watchers.Go(func() { watchAll(watchCtx, e.kube, &v1alpha1.DynamicSecretList{}, s.history.observeObject) })
	if err := s.createInitialObjects(ctx); err != nil {
		return err
	}
	before, err := e.secretVersions(ctx)
	if err != nil {
		return err
	}
	logf(e.opts, "storm started: %d objects, %s", e.opts.Objects, e.opts.Storm)
	began := time.Now()
	if err := s.runTracks(ctx); err != nil {
		return fmt.Errorf("the storm could not inject a fault: %w\n%s", err, e.bed.Manager.LastWords(20))
	}
	report.Storm, report.Quiet = time.Since(began), s.quiet
	logf(e.opts, "storm finished")
	return s.verify(ctx, report, before)
}

// createInitialObjects creates the bystanders and half of the other objects. The storm creates the rest.
func (s *storm) createInitialObjects(ctx context.Context) error {
	for i := range s.opts.Objects {
		name := objectName(i)
		s.history.addObject(name, kindOf(i), object(name, roleOf(i), renewAtPercentOf(i)))
		if kindOf(i) == bystander || i%2 == 0 {
			if err := s.create(ctx, name); err != nil {
				return err
			}
		}
	}
	return eventually(ctx, "all bystanders to be Ready", func() (string, error) {
		objects, err := s.objects(ctx)
		for _, name := range s.history.names(bystander) {
			if !settled(objects[name]) {
				return name + " is not Ready", err
			}
		}
		return "", err
	})
}

// create creates an object and adds the cause.
func (s *storm) create(ctx context.Context, name string) error {
	c := s.history.addCause(name)
	err := s.kube.Create(ctx, s.history.newObject(name))
	if err == nil {
		c.markTriggered()
	} else {
		c.withdraw()
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// runTracks runs the storm's tracks concurrently until its time is over. Each track has its own random source, so its
// choices do not depend on the progress of other tracks.
func (s *storm) runTracks(ctx context.Context) error {
	stormCtx, cancel := context.WithTimeoutCause(ctx, s.opts.Storm, errors.New("the storm is over"))
	defer cancel()
	tracks := []func(stormCtx, ctx context.Context, random *rand.Rand) error{
		s.killManager, s.stopServers, s.injectVaultFaults, s.injectAPIFaults, s.slowDownCreation, s.mutateObjects,
		s.denySecrets, s.loseActiveVaults, s.moveClient, s.reportProgress,
	}
	errs := make([]error, len(tracks))
	var all sync.WaitGroup
	for i, track := range tracks {
		all.Go(func() {
			if errs[i] = track(stormCtx, ctx, rand.New(rand.NewPCG(s.opts.Seed, uint64(i)))); errs[i] != nil {
				cancel()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// reportProgress logs the progress every 15 seconds and measures the quiet periods.
func (s *storm) reportProgress(stormCtx, _ context.Context, _ *rand.Rand) error {
	began := time.Now()
	for i := 1; sleep(stormCtx, time.Second); i++ {
		if s.quietPeriod() {
			s.quiet += time.Second
		}
		if i%15 != 0 {
			continue
		}
		sum := s.history.summary()
		logf(s.opts,
			"%3.0f of %3.0f s: %d kills, %d credentials published for %d causes, %d objects changed without a cause",
			time.Since(began).Seconds(), s.opts.Storm.Seconds(), s.countOf(kills), sum.credentials, sum.causes,
			len(sum.violations))
	}
	return nil
}

func randomDuration(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

func oneIn(random *rand.Rand, n int) bool { return random.IntN(n) == 0 }
