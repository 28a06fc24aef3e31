//go:build integration

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Five leases are replaced at their maximum age, four times or more each, and one at its maximum TTL. A Deployment uses
// each of them. The overlap of the last is the time that a busy machine has before consumers are cut off.
func TestNoLoginFailsDuringTwentyRotations(t *testing.T) {
	t.Parallel()
	newRigWithNodes(t, brief).rotatesUnderConsumers(5, 4, false)
}

func TestNoLoginFailsWhileTheManagerIsKilled(t *testing.T) {
	t.Parallel()
	awaitSlot(t)
	newRig(t, newBed(t, testbed.BedOptions{
		Vault: testbed.VaultOptions{MaxRequestDuration: vaultLimit}, Rollout: true,
		Flags: []string{"--rollout-window=2s", "--leader-elect=false"},
	}), brief).rotatesUnderConsumers(2, 10, true)
}

// brief leases are replaced at their maximum TTL soon.
var brief = withTTL(30*time.Second, 90*time.Second)

// rotatesUnderConsumers rotates each object by age at least so many times, and one at its maximum TTL.
func (r *rig) rotatesUnderConsumers(objects, rotations int, kill bool) {
	r.t.Helper()
	least := map[string]int{}
	var aged []string
	for i := range objects {
		name := fmt.Sprintf("orders-%d", i)
		r.rolledOutObject(name, time.Second)
		least[name], aged = rotations, append(aged, name)
	}
	r.rolledOutObject("invoices", 20*time.Second)
	least["invoices"] = 1
	for name := range least {
		r.available(name)
	}
	pods, stop := r.followConsumers(r.t, 20)
	stopKilling := func() {}
	if kill {
		stopKilling = r.killManager(r.t)
	}
	r.limitAge(&metav1.Duration{Duration: 8 * time.Second}, aged)
	r.rotations("orders-0", rotations, kill)
	// A lease that a killed manager did not publish does not count.
	for name, n := range least {
		r.eventually(fmt.Sprintf("%d rotations of %s", n, name), func() bool { return pods.credentials(name) > n })
	}
	stopKilling()
	r.limitAge(nil, aged)
	for name := range least {
		r.atRestOnOneLease(name)
	}
	stop()
	for name, n := range least {
		rotated, rolled := pods.credentials(name)-1, r.rolledOut(name)
		if rotated != rolled || rotated < n {
			r.t.Errorf("%s was rotated %d times and rolled out %d times", name, rotated, rolled)
		}
		r.t.Logf("%s: %d rotations", name, rotated)
	}
	pods.noLoginFailed()
}

// rolledOutObject creates an object with a database role of its own, and a Deployment that uses it, all of this name.
func (r *rig) rolledOutObject(name string, overlap time.Duration) {
	r.t.Helper()
	r.must(r.Vault.WriteDatabaseRole(r.t.Context(), r.name, name, r.role))
	r.ready(name, rotation(overlap, 0), rollsOut(name), func(d *v1alpha1.DynamicSecret) {
		d.Spec.Vault.Path = r.name + "/creds/" + name
	})
	r.create(r.workload(name, name, 2))
}

// limitAge sets the maximum age of the objects.
func (r *rig) limitAge(age *metav1.Duration, names []string) {
	r.t.Helper()
	for _, name := range names {
		r.edit(name, func(d *v1alpha1.DynamicSecret) { d.Spec.Rotation.MaxAge = age })
	}
}

// workload returns a Deployment whose pods have the Secret in their environment, without creating it.
func (r *rig) workload(name, secretName string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Labels: labels}}
	d.Spec.Replicas, d.Spec.Selector = &replicas, &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template = podsWith(labels, secretName)
	return d
}

// podsWith is a template of pods that have the Secret in their environment.
func podsWith(labels map[string]string, secretName string) corev1.PodTemplateSpec {
	ref := corev1.LocalObjectReference{Name: secretName}
	env := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref}}}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app", EnvFrom: env}}},
	}
}

// available waits until all replicas of the Deployment are available.
func (r *rig) available(name string) {
	r.t.Helper()
	r.eventually(name+" to be available", func() bool {
		d := &appsv1.Deployment{}
		if !r.read(name, d) || d.Status.ObservedGeneration != d.Generation {
			return false
		}
		st, replicas := d.Status, *d.Spec.Replicas
		return st.UpdatedReplicas == replicas && st.AvailableReplicas == replicas && st.Replicas == replicas
	})
}

// consumers are the pods of a rig as clients of PostgreSQL. The nodes run no containers, so the test reads each pod's
// environment when the pod first appears; a kubelet reads it later, when it starts the container. A pod uses its
// environment until it is deleted.
type consumers struct {
	r *rig

	mu sync.Mutex
	// pods that exist, by UID, and env, the Secret that each of them started with.
	pods map[types.UID]client.ObjectKey
	env  map[types.UID]map[string][]byte
	// running pods have started.
	running map[types.UID]bool
	// users that each Secret contained, by its name.
	users    map[string]map[string]bool
	logins   int
	failures []string
}

// followConsumers follows the pods of the rig and lets them log in, the given number of times a second in total, until
// the test ends or stop is called.
func (r *rig) followConsumers(t *testing.T, aSecond int) (c *consumers, stop func()) {
	t.Helper()
	c = &consumers{
		r: r, pods: map[types.UID]client.ObjectKey{}, env: map[types.UID]map[string][]byte{},
		running: map[types.UID]bool{}, users: map[string]map[string]bool{},
	}
	kube, err := client.NewWithWatch(r.Plane.Config, client.Options{Scheme: r.Kube.Scheme()})
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	pods, err := kube.Watch(ctx, &corev1.PodList{}, client.InNamespace(r.name))
	r.must(err)
	secrets, err := kube.Watch(ctx, &corev1.SecretList{}, client.InNamespace(r.name))
	r.must(err)
	var all sync.WaitGroup
	all.Go(func() { c.follow(ctx, pods.ResultChan()) })
	all.Go(func() { c.follow(ctx, secrets.ResultChan()) })
	all.Go(func() { c.logIn(ctx, time.Second/time.Duration(aSecond)) })
	stop = sync.OnceFunc(func() { cancel(); pods.Stop(); secrets.Stop(); all.Wait() })
	t.Cleanup(stop)
	return c, stop
}

func (c *consumers) follow(ctx context.Context, events <-chan watch.Event) {
	for e := range events {
		if ctx.Err() != nil {
			return
		}
		switch o := e.Object.(type) {
		case *corev1.Pod:
			if e.Type == watch.Deleted {
				c.removePod(o)
			} else {
				c.addPod(ctx, o)
			}
		case *corev1.Secret:
			c.addUser(o)
		default:
			c.fail("a watch failed: %v", e.Object)
		}
	}
	if ctx.Err() == nil {
		c.fail("a watch ended")
	}
}

func (c *consumers) removePod(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, pod.UID)
	delete(c.running, pod.UID)
}

// addUser records the user that a Secret contains.
func (c *consumers) addUser(s *corev1.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[s.Name] == nil {
		c.users[s.Name] = map[string]bool{}
	}
	c.users[s.Name][string(s.Data["username"])] = true
}

// credentials counts the different users that the Secret has contained.
func (c *consumers) credentials(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.users[name])
}

func (c *consumers) addPod(ctx context.Context, pod *corev1.Pod) {
	c.mu.Lock()
	_, known := c.pods[pod.UID]
	c.mu.Unlock()
	var env map[string][]byte
	if !known {
		s := &corev1.Secret{}
		name := pod.Spec.Containers[0].EnvFrom[0].SecretRef.Name
		if err := c.r.Kube.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, s); err != nil {
			c.fail("pod %s cannot start: %v", pod.Name, err)
			return
		}
		env = s.Data
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !known {
		c.pods[pod.UID], c.env[pod.UID] = client.ObjectKeyFromObject(pod), env
	}
	if pod.Status.Phase == corev1.PodRunning {
		c.running[pod.UID] = true
	}
}

// logIn lets a random pod log in at each tick.
func (c *consumers) logIn(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if pod, env, ok := c.pick(); ok {
				all.Go(func() { c.try(pod, env) })
			}
		}
	}
}

func (c *consumers) pick() (pod string, env map[string][]byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	uids := make([]types.UID, 0, len(c.running))
	for uid := range c.running {
		uids = append(uids, uid)
	}
	if len(uids) == 0 {
		return "", nil, false
	}
	uid := uids[rand.IntN(len(uids))]
	return c.pods[uid].Name, c.env[uid], true
}

func (c *consumers) try(pod string, env map[string][]byte) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.r.Postgres.Login(ctx, string(env["username"]), string(env["password"]))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logins++
	if err != nil {
		now := time.Now().UTC().Format(time.TimeOnly)
		c.failures = append(c.failures, fmt.Sprintf("%s: %s as %s: %v", now, pod, env["username"], err))
	}
}

func (c *consumers) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
}

// noLoginFailed reports every login that failed.
func (c *consumers) noLoginFailed() {
	c.r.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.failures[:min(len(c.failures), 20)] {
		c.r.t.Error(text)
	}
	if c.logins == 0 {
		c.r.t.Error("no pod ever logged in: nothing was tested")
	}
	c.r.t.Logf("%d logins, %d failed", c.logins, len(c.failures))
}
