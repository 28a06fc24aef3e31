package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// tracker follows the DynamicSecrets through a watch: lists of thousands of objects would load the API server, which is
// being measured. It decodes only the name and the Ready condition, to use little CPU itself.
type tracker struct {
	client rest.Interface
	stop   context.CancelFunc

	mu sync.Mutex
	// version is the resourceVersion of the last event.
	version string
	// objects that exist, by name; the value is whether Ready is True.
	objects map[string]bool
	readies int
	err     error
}

// watchEvent is the part of a watch event that the tracker reads.
type watchEvent struct {
	Type   string
	Object struct {
		Metadata struct{ Name, ResourceVersion string }
		Status   struct {
			Conditions []struct{ Type, Status string }
		}
	}
}

func (e watchEvent) ready() bool {
	for _, c := range e.Object.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// startTracker begins with the objects that exist.
func startTracker(ctx context.Context, config *rest.Config) (*tracker, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &tracker{client: client.RESTClient(), stop: cancel, objects: map[string]bool{}}
	stream, err := t.watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	go t.run(ctx, stream)
	return t, nil
}

// watch continues after the last event.
func (t *tracker) watch(ctx context.Context) (io.ReadCloser, error) {
	return t.client.Get().
		AbsPath("/apis", dynamicSecrets.Group, dynamicSecrets.Version, "namespaces", namespace,
			dynamicSecrets.Resource).
		Param("watch", "true").Param("resourceVersion", t.version).Stream(ctx)
}

// run watches again when a watch ends: a busy API server drops watchers that do not keep up.
func (t *tracker) run(ctx context.Context, stream io.ReadCloser) {
	for {
		err := t.follow(stream)
		_ = stream.Close()
		if err == nil && ctx.Err() == nil {
			stream, err = t.watch(ctx)
		}
		if err != nil || ctx.Err() != nil {
			t.mu.Lock()
			t.err = errors.Join(context.Cause(ctx), err)
			t.mu.Unlock()
			return
		}
	}
}

// follow reads events until the stream ends. An event that reports an error is the only error.
func (t *tracker) follow(stream io.Reader) error {
	decoder := json.NewDecoder(stream)
	for {
		var event watchEvent
		if err := decoder.Decode(&event); err != nil {
			return nil
		}
		if event.Type == "ERROR" {
			return errors.New("the API server cannot continue the watch")
		}
		t.mu.Lock()
		t.record(event)
		t.mu.Unlock()
	}
}

// record needs t.mu.
func (t *tracker) record(event watchEvent) {
	name := event.Object.Metadata.Name
	t.version = event.Object.Metadata.ResourceVersion
	if t.objects[name] {
		t.readies--
	}
	if event.Type == "DELETED" {
		delete(t.objects, name)
		return
	}
	t.objects[name] = event.ready()
	if t.objects[name] {
		t.readies++
	}
}

func (t *tracker) ready() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readies
}

func (t *tracker) live() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.objects)
}

func (t *tracker) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// await returns when count reaches n. It shows progress every five seconds.
func (t *tracker) await(ctx context.Context, what string, count func() int, n int) error {
	shown := time.Now()
	for {
		now := count()
		if now >= n {
			return nil
		}
		if err := t.failed(); err != nil {
			return fmt.Errorf("%d of %d %s: %w", now, n, what, err)
		}
		if time.Since(shown) >= 5*time.Second {
			shown = time.Now()
			progress("%d of %d %s", now, n, what)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d %s: %w", now, n, what, err)
		}
	}
}
