package controllers

import (
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// ProviderChanges takes word of a provider whose backend went down or serves again to the reconcilers: the provider's own,
// so that its status says so at once, and when it serves again those of its users, so that what is due is done.
type ProviderChanges struct {
	providers map[string]chan event.GenericEvent
	users     chan event.GenericEvent
}

// NewProviderChanges makes one, for vault.Options and Setup.
func NewProviderChanges() *ProviderChanges {
	// Full queues drop: each reconciler looks again in its own time.
	const room = 1024
	return &ProviderChanges{
		providers: map[string]chan event.GenericEvent{
			v1alpha1.ProviderKindNamespaced: make(chan event.GenericEvent, room),
			v1alpha1.ProviderKindCluster:    make(chan event.GenericEvent, room),
		},
		users: make(chan event.GenericEvent, room),
	}
}

// Note takes the word. It does not block.
func (c *ProviderChanges) Note(p v1alpha1.Provider, up, recovered bool) {
	log.Log.WithName("backend").Info("it turned", "providerKind", p.Kind(), "provider", p.GetNamespace()+"/"+p.GetName(), "serves", up, "recovered", recovered)
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
