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

// manifest is what a platform team (the provider) and an application team (the
// DynamicSecret) apply.
const manifest = `apiVersion: leasekeeper.io/v1alpha1
kind: ClusterSecretProvider
metadata: {name: vault}
spec:
  vault:
    address: ADDRESS
    auth:          # who issues: the workload
      kubernetes: {role: app, serviceAccountRef: {name: orders, audiences: [vault]}}
    keeperAuth:    # who renews and revokes: leasekeeper
      kubernetes: {role: keeper, serviceAccountRef: {name: leasekeeper, namespace: leasekeeper-system, audiences: [vault]}}
---
apiVersion: leasekeeper.io/v1alpha1
kind: DynamicSecret
metadata: {name: orders-db, namespace: shop}
spec:
  providerRef: {kind: ClusterSecretProvider, name: vault}
  vault: REQUEST
  rotation: {overlap: 5s}   # for so long the old credential outlives the new one's arrival; 2m if left out
`

// credential is what the Secret held when it was looked at, and by which lease.
type credential struct {
	data  map[string][]byte
	lease string
}

// tell plays the story. Each chapter ends when it was seen, or with an error
// that says what was waited for.
func tell(ctx context.Context, s *stage) error {
	first, err := s.appears(ctx)
	if err != nil {
		return err
	}
	second, err := s.livesItsLife(ctx, first)
	if err != nil {
		return err
	}
	third, err := s.isRevokedBehindOurBack(ctx, second)
	if err != nil {
		return err
	}
	if err := s.isDeleted(ctx, third); err != nil {
		return err
	}
	say("All of it was seen. The end.")
	return nil
}

// appears: a provider and a DynamicSecret are applied; the Secret works.
func (s *stage) appears(ctx context.Context) (credential, error) {
	say("1. A team applies a provider and a DynamicSecret.")
	text := strings.NewReplacer("ADDRESS", s.vault.Address, "REQUEST", s.backend.request()).Replace(manifest)
	fmt.Printf("\n%s\n", indent(text))
	if err := s.apply(ctx, text); err != nil {
		return credential{}, err
	}
	var now credential
	err := s.await(ctx, "the DynamicSecret to be Ready and its Secret to appear", 30*time.Second, func(ctx context.Context) (err error) {
		now, err = s.ready(ctx)
		return err
	})
	if err != nil {
		return now, err
	}
	s.show(ctx)
	return now, s.works(ctx, now)
}

// livesItsLife: the short lease is renewed, and replaced at its max TTL.
func (s *stage) livesItsLife(ctx context.Context, old credential) (credential, error) {
	if s.backend.renewable() {
		say("2. The lease is short. leasekeeper renews it: the same user stays.")
		err := s.await(ctx, "the same lease to be renewed", time.Minute, func(ctx context.Context) error {
			now, err := s.object(ctx)
			if err != nil {
				return err
			}
			if now.Status.Lease == nil || now.Status.Lease.ID != old.lease || now.Status.Lease.Renewals == 0 {
				return errors.New("status.lease.renewals is still 0")
			}
			return nil
		})
		if err != nil {
			return old, err
		}
	} else {
		say("2. Leases of this engine cannot be renewed; that chapter needs PostgreSQL.")
	}
	s.show(ctx)
	say("3. Vault lets a lease live no longer than its max TTL. leasekeeper replaces it before that, and lets the old one live on for the overlap.")
	return s.replaced(ctx, old, 2*time.Minute)
}

// isRevokedBehindOurBack: an administrator revokes the lease; nobody tells us.
func (s *stage) isRevokedBehindOurBack(ctx context.Context, old credential) (credential, error) {
	say("4. Somebody revokes the lease in Vault, and tells nobody.\n\n  $ vault lease revoke %s", old.lease)
	cmd := exec.CommandContext(ctx, s.plane.Binaries.Vault, "lease", "revoke", old.lease)
	cmd.Env = []string{"VAULT_ADDR=" + s.vault.Address, "VAULT_TOKEN=" + s.vault.Root.Token(), "HOME=" + os.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return old, fmt.Errorf("vault lease revoke: %w: %s", err, out)
	}
	fmt.Print(indent(string(out)))
	// The lease was young: only the revocation can be why it is replaced now.
	return s.replaced(ctx, old, time.Minute)
}

// isDeleted: with the object goes everything that was made for it.
func (s *stage) isDeleted(ctx context.Context, last credential) error {
	say("5. The team deletes the DynamicSecret.\n\n  $ kubectl delete dynamicsecret -n %s %s", namespace, object)
	out, err := s.plane.Kubectl(ctx, "delete", "dynamicsecret", "-n", namespace, object, "--timeout=60s")
	if err != nil {
		return err
	}
	fmt.Print(indent(out))
	if err := s.await(ctx, "the Secret to be gone", 30*time.Second, func(ctx context.Context) error {
		err := s.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, &corev1.Secret{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	}); err != nil {
		return err
	}
	if err := s.refused(ctx, last); err != nil {
		return err
	}
	if err := s.await(ctx, "no lease to be left in Vault", 30*time.Second, func(ctx context.Context) error {
		leases, err := s.vault.Leases(ctx, s.backend.mount())
		return errors.Join(none("leases", leases), err)
	}); err != nil {
		return err
	}
	return s.await(ctx, "no leased account to be left", 30*time.Second, func(ctx context.Context) error {
		accounts, err := s.backend.accounts(ctx)
		return errors.Join(none("accounts", accounts), err)
	})
}

func none(what string, left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%d %s are left: %v", len(left), what, left)
}

// replaced waits for another lease in the Secret; the new account works and
// the old one is refused.
func (s *stage) replaced(ctx context.Context, old credential, within time.Duration) (credential, error) {
	var now credential
	err := s.await(ctx, "the Secret to hold another user, by another lease", within, func(ctx context.Context) (err error) {
		now, err = s.ready(ctx)
		if err == nil && (now.lease == old.lease || s.backend.who(now.data) == s.backend.who(old.data)) {
			err = errors.New("it holds " + s.backend.who(old.data) + " still")
		}
		return err
	})
	if err != nil {
		return now, err
	}
	s.show(ctx)
	return now, errors.Join(s.works(ctx, now), s.refused(ctx, old))
}

// ready answers with what the Secret holds, once the object says it is Ready
// and the lease in its status is one that Vault knows.
func (s *stage) ready(ctx context.Context) (credential, error) {
	now, err := s.object(ctx)
	if err != nil {
		return credential{}, err
	}
	condition := meta.FindStatusCondition(now.Status.Conditions, leasekeeperv1alpha1.ReadyCondition)
	if condition == nil {
		return credential{}, errors.New("it has no Ready condition yet")
	}
	if condition.Status != "True" || now.Status.Lease == nil {
		return credential{}, fmt.Errorf("it is not Ready: %s: %s", condition.Reason, condition.Message)
	}
	secret := &corev1.Secret{}
	if err := s.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, secret); err != nil {
		return credential{}, err
	}
	return credential{data: secret.Data, lease: now.Status.Lease.ID}, nil
}

func (s *stage) object(ctx context.Context) (*leasekeeperv1alpha1.DynamicSecret, error) {
	now := &leasekeeperv1alpha1.DynamicSecret{}
	return now, s.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: object}, now)
}

func (s *stage) works(ctx context.Context, c credential) error {
	answer, err := s.backend.login(ctx, c.data)
	if err != nil {
		return fmt.Errorf("the login with the Secret failed: %w", err)
	}
	note("Logging in with the Secret works. %s", answer)
	return nil
}

func (s *stage) refused(ctx context.Context, c credential) error {
	return s.await(ctx, "the login of "+s.backend.who(c.data)+" to be refused", 30*time.Second, func(ctx context.Context) error {
		if _, err := s.backend.login(ctx, c.data); err == nil {
			return errors.New("it still works")
		}
		return nil
	})
}

// await polls until see answers nil.
func (s *stage) await(ctx context.Context, what string, within time.Duration, see func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := see(ctx)
		if err == nil {
			note("Seen after %s: %s.", seconds(time.Since(start)), what)
			return nil
		}
		if !s.manager.Running() {
			return fmt.Errorf("waited for %s, and the manager ended (%w)", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", seconds(time.Since(start)), what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// show prints what a person sees.
func (s *stage) show(ctx context.Context) {
	out, err := s.plane.Kubectl(ctx, "get", "dynamicsecrets", "-n", namespace)
	if err != nil {
		out = err.Error()
	}
	fmt.Printf("\n  $ kubectl get dynamicsecrets -n %s\n%s\n", namespace, indent(out))
}

func (s *stage) apply(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, s.plane.Binaries.Kubectl, "--kubeconfig", s.plane.Kubeconfig, "apply", "-f", "-")
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
