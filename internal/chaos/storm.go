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

// storm is what goes on while everything fails.
type storm struct {
	*site
	book *book

	mu     sync.Mutex
	counts map[string]int
	// longest is how long a server was away at most.
	longest map[string]time.Duration
	// held is for how long the storm held its breath.
	held time.Duration
	// lives are the times between two kills.
	lives []time.Duration
}

// Names of what is counted.
const (
	kills         = "manager killed"
	worked        = "manager killed at work"
	pauses        = "manager paused and woken"
	endedByItself = "manager ended by itself, and was started again"
)

func (s *storm) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

func (s *storm) killedAfter(life time.Duration) {
	s.count(kills)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives = append(s.lives, life)
}

func (s *storm) counted(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// timed notes how long a server is away, from now until what it returns is called.
func (s *storm) timed(server string) (back func()) {
	began := time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.longest[server] = max(s.longest[server], time.Since(began))
	}
}

// storm lets everything fail, waits until all is at rest, judges, deletes everything, and judges again.
func (s *site) storm(ctx context.Context, report *Report) error {
	st := &storm{site: s, book: newBook(), counts: map[string]int{}, longest: map[string]time.Duration{}}
	following, stop := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer stop()
	followers.Go(func() { follow(following, s.kube, &corev1.SecretList{}, st.book.seeSecret) })
	followers.Go(func() { follow(following, s.kube, &v1alpha1.DynamicSecretList{}, st.book.seeObject) })
	if err := st.plant(ctx); err != nil {
		return err
	}
	before, err := s.versions(ctx)
	if err != nil {
		return err
	}
	say(s.opts, "the storm begins: %d objects, for %s", s.opts.Objects, s.opts.Storm)
	began := time.Now()
	if err := st.rage(ctx); err != nil {
		return fmt.Errorf("the storm itself failed: %w\n%s", err, s.bed.Manager.LastWords(20))
	}
	report.Storm, report.Held = time.Since(began), st.held
	say(s.opts, "the storm is over")
	return st.judge(ctx, report, before)
}

// plant creates the bystanders and half of the others; the rest is for the storm to create.
func (s *storm) plant(ctx context.Context) error {
	for i := range s.opts.Objects {
		name := nameOf(i)
		s.book.open(name, kindOf(i), object(name, roleOf(i), renewAtOf(i)))
		if kindOf(i) == bystander || i%2 == 0 {
			if err := s.make(ctx, name); err != nil {
				return err
			}
		}
	}
	return eventually(ctx, "all bystanders to be Ready", func() (string, error) {
		objects, err := s.objects(ctx)
		for _, name := range s.book.names(bystander) {
			if !atRest(objects[name]) {
				return name + " is not", err
			}
		}
		return "", err
	})
}

// make creates an object, which is a cause for a credential.
func (s *storm) make(ctx context.Context, name string) error {
	c := s.book.cause(name)
	err := s.kube.Create(ctx, s.book.wanted(name))
	if err == nil {
		c.wasGiven()
	} else {
		c.takeBack()
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// rage runs the storm's tracks until its time is over. Each draws from numbers of its own, so that what one draws does not
// depend on how far the others have come.
func (s *storm) rage(ctx context.Context) error {
	raging, cancel := context.WithTimeoutCause(ctx, s.opts.Storm, errors.New("the storm is over"))
	defer cancel()
	tracks := []func(raging, ctx context.Context, random *rand.Rand) error{
		s.harryManager, s.takeServersAway, s.breakWayToVault, s.breakWayToAPI, s.slowStatements, s.stir, s.tell,
	}
	errs := make([]error, len(tracks))
	var all sync.WaitGroup
	for i, track := range tracks {
		all.Go(func() {
			if errs[i] = track(raging, ctx, rand.New(rand.NewPCG(s.opts.Seed, uint64(i)))); errs[i] != nil {
				cancel()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// tell says now and then how far the storm is, and counts the seconds for which it holds its breath.
func (s *storm) tell(raging, _ context.Context, _ *rand.Rand) error {
	began := time.Now()
	for i := 1; nap(raging, time.Second); i++ {
		if s.mercyDue() {
			s.held += time.Second
		}
		if i%15 != 0 {
			continue
		}
		changes, causes, _, wrong := s.book.sum()
		say(s.opts, "%3.0f s of %3.0f s: %d kills, %d credentials reached a Secret for %d causes, %d objects changed without one",
			time.Since(began).Seconds(), s.opts.Storm.Seconds(), s.counted(kills), changes, causes, len(wrong))
	}
	return nil
}

// between draws a duration.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// one in n.
func one(random *rand.Rand, n int) bool { return random.IntN(n) == 0 }
