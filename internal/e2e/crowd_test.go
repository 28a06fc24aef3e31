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
)

// workload is a Deployment whose pods take the Secret of the name in their environment, not created yet.
func (r *room) workload(name, secretName string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Labels: labels}}
	d.Spec.Replicas, d.Spec.Selector = &replicas, &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template = podsWith(labels, secretName)
	return d
}

// podsWith is a template of pods that take the Secret in their environment.
func podsWith(labels map[string]string, secretName string) corev1.PodTemplateSpec {
	env := corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secretName}}}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app", EnvFrom: []corev1.EnvFromSource{env}}}},
	}
}

// available waits until all replicas of the Deployment are.
func (r *room) available(name string) {
	r.t.Helper()
	r.eventually(name+" to be available", func() bool {
		d := &appsv1.Deployment{}
		return r.read(name, d) && d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == *d.Spec.Replicas &&
			d.Status.AvailableReplicas == *d.Spec.Replicas && d.Status.Replicas == *d.Spec.Replicas
	})
}

// crowd is the pods of a room as clients of PostgreSQL. The nodes run no containers, so each pod's environment is taken
// here, when the pod is first seen: a kubelet does that when it starts the container, which is later. A pod uses it until
// it is gone.
type crowd struct {
	r *room

	mu sync.Mutex
	// pods that are there, by uid, with the user and password that they started with.
	pods map[types.UID]client.ObjectKey
	env  map[types.UID]map[string][]byte
	// running are those that have started.
	running map[types.UID]bool
	// users that each Secret was seen to hold.
	users   map[string]map[string]bool
	logins  int
	refused []string
}

// gather follows the pods of the room and lets them log in, so many times a second in all, until the test ends or stop is
// called.
func (r *room) gather(t *testing.T, aSecond int) (c *crowd, stop func()) {
	t.Helper()
	c = &crowd{r: r, pods: map[types.UID]client.ObjectKey{}, env: map[types.UID]map[string][]byte{}, running: map[types.UID]bool{},
		users: map[string]map[string]bool{}}
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

func (c *crowd) follow(ctx context.Context, events <-chan watch.Event) {
	for e := range events {
		if ctx.Err() != nil {
			return
		}
		switch o := e.Object.(type) {
		case *corev1.Pod:
			if e.Type == watch.Deleted {
				c.leave(o)
			} else {
				c.see(ctx, o)
			}
		case *corev1.Secret:
			c.note(o)
		default:
			c.fail("a watch broke off: %v", e.Object)
		}
	}
	if ctx.Err() == nil {
		c.fail("a watch came to its end")
	}
}

func (c *crowd) leave(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, pod.UID)
	delete(c.running, pod.UID)
}

// note whose credential a Secret holds.
func (c *crowd) note(s *corev1.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[s.Name] == nil {
		c.users[s.Name] = map[string]bool{}
	}
	c.users[s.Name][string(s.Data["username"])] = true
}

// credentials is how many different ones the Secret was seen to hold.
func (c *crowd) credentials(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.users[name])
}

func (c *crowd) see(ctx context.Context, pod *corev1.Pod) {
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

// logIn lets one pod after the other log in.
func (c *crowd) logIn(ctx context.Context, every time.Duration) {
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

func (c *crowd) pick() (pod string, env map[string][]byte, ok bool) {
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

func (c *crowd) try(pod string, env map[string][]byte) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := c.r.Postgres.Login(ctx, string(env["username"]), string(env["password"]))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logins++
	if err != nil {
		c.refused = append(c.refused, fmt.Sprintf("%s: %s as %s: %v", time.Now().UTC().Format(time.TimeOnly), pod, env["username"], err))
	}
}

func (c *crowd) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, fmt.Sprintf(format, args...))
}

// nobodyWasRefused reports every login that failed.
func (c *crowd) nobodyWasRefused() {
	c.r.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.refused[:min(len(c.refused), 20)] {
		c.r.t.Error(text)
	}
	if c.logins == 0 {
		c.r.t.Error("nobody ever logged in: nothing was tested")
	}
	c.r.t.Logf("%d logins, %d failed", c.logins, len(c.refused))
}
