//go:build integration

package testbed_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func admin(t *testing.T) kubernetes.Interface {
	return must(kubernetes.NewForConfig(bed.plane.Config))(t)
}

// account creates a namespace with the ServiceAccount orders.
func account(t *testing.T, namespace string) {
	t.Helper()
	client, ctx := admin(t), t.Context()
	must(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		metav1.CreateOptions{}))(t)
	must(client.CoreV1().ServiceAccounts(namespace).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "orders"}}, metav1.CreateOptions{}))(t)
}

func TestNamespaceDeletionCompletes(t *testing.T) {
	client, ctx := admin(t), t.Context()
	account(t, "deleted")
	check(t, client.CoreV1().Namespaces().Delete(ctx, "deleted", metav1.DeleteOptions{}))
	eventually(t, "the namespace to be gone", func() (bool, error) {
		_, err := client.CoreV1().Namespaces().Get(ctx, "deleted", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

func TestSecretIsGarbageCollectedWithItsOwner(t *testing.T) {
	client, ctx := admin(t), t.Context()
	account(t, "garbage")
	owner := must(client.CoreV1().ConfigMaps("garbage").Create(ctx,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))(t)
	owned := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID},
	}}}
	must(client.CoreV1().Secrets("garbage").Create(ctx, owned, metav1.CreateOptions{}))(t)
	check(t, client.CoreV1().ConfigMaps("garbage").Delete(ctx, "owner", metav1.DeleteOptions{}))
	eventually(t, "the owned Secret to be collected", func() (bool, error) {
		_, err := client.CoreV1().Secrets("garbage").Get(ctx, "owned", metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

func TestServiceAccountConfigIsRestrictedByRBAC(t *testing.T) {
	account(t, "rights")
	cfg := must(bed.plane.ConfigForServiceAccount(t.Context(), "rights", "orders"))(t)
	mark := must(bed.plane.Mark())(t)
	client := must(kubernetes.NewForConfig(cfg))(t)
	_, err := client.CoreV1().Secrets("rights").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("an account without a role listed Secrets: %v", err)
	}
	eventually(t, "the forbidden request in the audit log", func() (bool, error) {
		found, err := bed.plane.Requests(mark, func(r testbed.APIRequest) bool {
			return r.User == "system:serviceaccount:rights:orders" && r.Verb == "list" && r.Resource == "secrets" &&
				r.Code == 403
		})
		return len(found) == 1, err
	})
}

func TestRestartedAPIServerKeepsItsObjects(t *testing.T) {
	account(t, "stored")
	check(t, bed.plane.StopAPIServer())
	if _, err := admin(t).CoreV1().Namespaces().Get(t.Context(), "stored", metav1.GetOptions{}); err == nil {
		t.Fatal("a stopped API server responded")
	}
	check(t, bed.plane.StartAPIServer(t.Context()))
	must(admin(t).CoreV1().Namespaces().Get(t.Context(), "stored", metav1.GetOptions{}))(t)
}
