package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	leasekeeperv1alpha1 "github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// manifest is applied by a platform team (the provider) and an application team (the DynamicSecret).
const manifest = `apiVersion: leasekeeper.io/v1alpha1
kind: ClusterSecretProvider
metadata: {name: vault}
spec:
  vault:
    address: ADDRESS
    auth:          # who issues: the workload
      kubernetes: {role: app, serviceAccountRef: {name: orders, audiences: [vault]}}
    keeperAuth:    # who renews and revokes: leasekeeper
      kubernetes:
        role: keeper
        serviceAccountRef: {name: leasekeeper, namespace: leasekeeper-system, audiences: [vault]}
---
apiVersion: leasekeeper.io/v1alpha1
kind: DynamicSecret
metadata: {name: orders-db, namespace: shop}
spec:
  providerRef: {kind: ClusterSecretProvider, name: vault}
  vault: REQUEST
  rotation: {overlap: 5s}   # time that the old credential stays valid; default 2m
`

// credential is the content of the Secret and its lease id.
type credential struct {
	data  map[string][]byte
	lease string
}

// runStory runs the chapters in order. A chapter returns an error if its outcome does not appear in time.
func runStory(ctx context.Context, e *environment) error {
	first, err := e.issue(ctx)
	if err != nil {
		return err
	}
	second, err := e.renewAndReplace(ctx, first)
	if err != nil {
		return err
	}
	third, err := e.revokeOutOfBand(ctx, second)
	if err != nil {
		return err
	}
	if err := e.deleteObject(ctx, third); err != nil {
		return err
	}
	printf("All steps succeeded.")
	return nil
}

// issue applies a provider and a DynamicSecret and logs in with the Secret.
func (e *environment) issue(ctx context.Context) (credential, error) {
	printf("1. A team applies a provider and a DynamicSecret.")
	text := strings.NewReplacer("ADDRESS", e.vault.Address, "REQUEST", e.backend.request()).Replace(manifest)
	fmt.Printf("\n%s\n", indent(text))
	if err := e.apply(ctx, text); err != nil {
		return credential{}, err
	}
	var now credential
	err := e.await(ctx, "the DynamicSecret to be Ready and its Secret to appear", 30*time.Second,
		func(ctx context.Context) (err error) {
			now, err = e.readyCredential(ctx)
			return err
		})
	if err != nil {
		return now, err
	}
	e.printObjects(ctx)
	return now, e.verifyLogin(ctx, now)
}

// renewAndReplace waits until the lease is renewed and then replaced near its maximum TTL.
func (e *environment) renewAndReplace(ctx context.Context, old credential) (credential, error) {
	if e.backend.renewable() {
		printf("2. The lease is short. leasekeeper renews it and keeps the user.")
		err := e.await(ctx, "the same lease to be renewed", time.Minute, func(ctx context.Context) error {
			now, err := e.object(ctx)
			if err != nil {
				return err
			}
			leases := now.Status.Leases
			if len(leases) == 0 || leases[0].ID != old.lease || leases[0].Renewals == 0 {
				return errors.New("status.lease.renewals is still 0")
			}
			return nil
		})
		if err != nil {
			return old, err
		}
	} else {
		printf("2. Leases of this engine cannot be renewed. This step needs PostgreSQL.")
	}
	e.printObjects(ctx)
	printf("3. A lease cannot outlive its maximum TTL. leasekeeper replaces it before that,\n" +
		"   and keeps the old one for the overlap.")
	return e.awaitReplacement(ctx, old, 2*time.Minute)
}

// revokeOutOfBand revokes the lease as an administrator would.
func (e *environment) revokeOutOfBand(ctx context.Context, old credential) (credential, error) {
	printf("4. An administrator revokes the lease in Vault.\n\n  $ vault lease revoke %s", old.lease)
	cmd := exec.CommandContext(ctx, e.plane.Binaries.Vault, "lease", "revoke", old.lease)
	cmd.Env = []string{"VAULT_ADDR=" + e.vault.Address, "VAULT_TOKEN=" + e.vault.Root.Token(), "HOME=" + os.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return old, fmt.Errorf("vault lease revoke: %w: %s", err, out)
	}
	fmt.Print(indent(string(out)))
	// The lease is not due yet, so only the revocation can cause the replacement.
	return e.awaitReplacement(ctx, old, time.Minute)
}

// deleteObject deletes the DynamicSecret and waits until its Secret, lease and account are gone.
func (e *environment) deleteObject(ctx context.Context, last credential) error {
	printf("5. The team deletes the DynamicSecret.\n\n  $ kubectl delete dynamicsecret -n %s %s", namespace, object)
	out, err := e.plane.Kubectl(ctx, "delete", "dynamicsecret", "-n", namespace, object, "--timeout=60s")
	if err != nil {
		return err
	}
	fmt.Print(indent(out))
	if err := e.await(ctx, "the Secret to be gone", 30*time.Second, func(ctx context.Context) error {
		err := e.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, &corev1.Secret{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the Secret still exists"), err)
	}); err != nil {
		return err
	}
	if err := e.awaitLoginFailure(ctx, last); err != nil {
		return err
	}
	if err := e.await(ctx, "no lease to be left in Vault", 30*time.Second, func(ctx context.Context) error {
		leases, err := e.vault.Leases(ctx, e.backend.mount())
		return errors.Join(none("leases", leases), err)
	}); err != nil {
		return err
	}
	return e.await(ctx, "no leased account to be left", 30*time.Second, func(ctx context.Context) error {
		accounts, err := e.backend.accounts(ctx)
		return errors.Join(none("accounts", accounts), err)
	})
}

func none(what string, left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%d %s left: %v", len(left), what, left)
}

// awaitReplacement waits until the Secret holds another lease, the new account works, and the old login fails.
func (e *environment) awaitReplacement(ctx context.Context, old credential, within time.Duration) (credential, error) {
	var now credential
	err := e.await(ctx, "the Secret to hold another user and lease", within, func(ctx context.Context) (err error) {
		now, err = e.readyCredential(ctx)
		if err == nil &&
			(now.lease == old.lease || e.backend.accountName(now.data) == e.backend.accountName(old.data)) {
			err = errors.New("the Secret still holds " + e.backend.accountName(old.data))
		}
		return err
	})
	if err != nil {
		return now, err
	}
	e.printObjects(ctx)
	return now, errors.Join(e.verifyLogin(ctx, now), e.awaitLoginFailure(ctx, old))
}

// readyCredential returns the content of the Secret once the object is Ready.
func (e *environment) readyCredential(ctx context.Context) (credential, error) {
	now, err := e.object(ctx)
	if err != nil {
		return credential{}, err
	}
	condition := meta.FindStatusCondition(now.Status.Conditions, leasekeeperv1alpha1.ReadyCondition)
	if condition == nil {
		return credential{}, errors.New("the object has no Ready condition yet")
	}
	if condition.Status != "True" || len(now.Status.Leases) == 0 {
		return credential{}, fmt.Errorf("the object is not Ready: %s: %s", condition.Reason, condition.Message)
	}
	secret := &corev1.Secret{}
	if err := e.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, secret); err != nil {
		return credential{}, err
	}
	return credential{data: secret.Data, lease: now.Status.Leases[0].ID}, nil
}

func (e *environment) object(ctx context.Context) (*leasekeeperv1alpha1.DynamicSecret, error) {
	now := &leasekeeperv1alpha1.DynamicSecret{}
	return now, e.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, now)
}

func (e *environment) verifyLogin(ctx context.Context, c credential) error {
	greeting, err := e.backend.login(ctx, c.data)
	if err != nil {
		return fmt.Errorf("the login with the Secret failed: %w", err)
	}
	detailf("The login with the Secret succeeded. %s", greeting)
	return nil
}

func (e *environment) awaitLoginFailure(ctx context.Context, c credential) error {
	return e.await(ctx, "the login of "+e.backend.accountName(c.data)+" to fail", 30*time.Second,
		func(ctx context.Context) error {
			if _, err := e.backend.login(ctx, c.data); err == nil {
				return errors.New("the login still succeeds")
			}
			return nil
		})
}

// await polls until check returns nil.
func (e *environment) await(
	ctx context.Context, what string, within time.Duration, check func(context.Context) error,
) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			detailf("Waited %s for %s.", seconds(time.Since(start)), what)
			return nil
		}
		if !e.manager.Running() {
			return fmt.Errorf("the manager exited while waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out after %s waiting for %s: %w", seconds(time.Since(start)), what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// printObjects prints what a user sees.
func (e *environment) printObjects(ctx context.Context) {
	out, err := e.plane.Kubectl(ctx, "get", "dynamicsecrets", "-n", namespace)
	if err != nil {
		out = err.Error()
	}
	fmt.Printf("\n  $ kubectl get dynamicsecrets -n %s\n%s\n", namespace, indent(out))
}

func (e *environment) apply(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, e.plane.Binaries.Kubectl, "--kubeconfig", e.plane.Kubeconfig, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl apply: %w: %s", err, out)
	}
	fmt.Printf("  $ kubectl apply -f -\n%s", indent(string(out)))
	return nil
}

func indent(text string) string {
	var out bytes.Buffer
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		out.WriteString("  " + line)
	}
	return out.String()
}
