package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// clientWorkers create and delete objects: enough to keep the API server busy.
const clientWorkers = 16

// leftovers of the objects after their deletion. All should be 0.
type leftovers struct {
	Secrets int `json:"secrets"`
	Leases  int `json:"leases"`
	// Tokens that were made to issue a credential.
	Tokens int `json:"issuingTokens"`
}

func (s *site) objects() dynamic.ResourceInterface {
	return s.kube.Resource(dynamicSecrets).Namespace(namespace)
}

func objectName(i int) string { return fmt.Sprintf("object-%05d", i) }

// createObject creates the object of a manifest, as JSON: that is much cheaper to read than YAML, thousands of times.
func (s *site) createObject(ctx context.Context, manifest []byte, name string) error {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON([]byte(expand(string(manifest), "NAME", name))); err != nil {
		return err
	}
	_, err := s.objects().Create(ctx, object, metav1.CreateOptions{})
	return err
}

func (s *site) createObjects(ctx context.Context, n int) error {
	manifest, err := yaml.YAMLToJSON([]byte(objectManifest))
	if err != nil {
		return err
	}
	return parallel(ctx, clientWorkers, n, func(ctx context.Context, i int) error {
		return s.createObject(ctx, manifest, objectName(i))
	})
}

func (s *site) deleteObjects(ctx context.Context, n int) error {
	return parallel(ctx, clientWorkers, n, func(ctx context.Context, i int) error {
		return s.objects().Delete(ctx, objectName(i), metav1.DeleteOptions{})
	})
}

// awaitNothingLeft waits up to a minute for the leases to disappear: Vault revokes those of a revoked token later.
func (s *site) awaitNothingLeft(ctx context.Context) (left leftovers, err error) {
	for range 60 {
		left, err = s.countLeftovers(ctx)
		if err != nil || left == (leftovers{}) {
			return left, err
		}
		progress("left: %d Secrets, %d leases, %d issuing tokens", left.Secrets, left.Leases, left.Tokens)
		if err := sleep(ctx, time.Second); err != nil {
			return left, err
		}
	}
	return left, fmt.Errorf("left a minute after the deletion: %+v", left)
}

func (s *site) countLeftovers(ctx context.Context) (left leftovers, err error) {
	list, err := s.kube.Resource(secrets).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return left, err
	}
	leases, err := s.vault.Leases(ctx, engine)
	if err != nil {
		return left, err
	}
	tokens, err := s.vault.Leases(ctx, "auth/"+workloadAuth)
	return leftovers{Secrets: len(list.Items), Leases: len(leases), Tokens: len(tokens)}, err
}

// sleep returns early, with the reason, when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
