package controllers

import (
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// ProviderChanges notifies reconcilers that the backend of a provider became unavailable or available: the provider's
// own reconciler, so that its status is current, and after a recovery that of its users, so that they continue.
type ProviderChanges struct {
	providers map[string]chan event.GenericEvent
	users     chan event.GenericEvent
}

// NewProviderChanges makes the queues. A driver fills them through Note, and Setup reads them.
func NewProviderChanges() *ProviderChanges {
	// A full queue drops changes: each reconciler checks again after its interval.
	const room = 1024
	return &ProviderChanges{
		providers: map[string]chan event.GenericEvent{
			v1alpha1.ProviderKindNamespaced: make(chan event.GenericEvent, room),
			v1alpha1.ProviderKindCluster:    make(chan event.GenericEvent, room),
		},
		users: make(chan event.GenericEvent, room),
	}
}

// Note queues a change. It does not block.
func (c *ProviderChanges) Note(p v1alpha1.Provider, up, recovered bool) {
	log.Log.WithName("backend").Info("availability of the backend changed", "providerKind", p.Kind(),
		"provider", p.GetNamespace()+"/"+p.GetName(), "available", up, "recovered", recovered)
	e := event.GenericEvent{Object: p.(client.Object)}
	send := func(to chan event.GenericEvent) {
		select {
		case to <- e:
		default:
		}
	}
	send(c.providers[p.Kind()])
	if recovered {
		send(c.users)
	}
}
