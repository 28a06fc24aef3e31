//go:build integration

package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

// Each test here is an actor of the threat model in docs/security.md, and each of its attempts must fail as that page
// says.

// attempt is something that an actor tries.
type attempt struct {
	name string
	try  func(*rig)
}

// attempts run on a rig each.
func attempts(t *testing.T, all []attempt, options ...option) {
	t.Parallel()
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.try(newRig(t, shared, options...))
		})
	}
}

// clientOf is a client with this config.
func (r *rig) clientOf(config *rest.Config) client.Client {
	r.t.Helper()
	c, err := client.New(config, client.Options{Scheme: r.Kube.Scheme()})
	r.must(err)
	return c
}

// person is the client of a user who has the ClusterRoles in the rig's namespace.
func (r *rig) person(roles ...string) client.Client {
	r.t.Helper()
	user := "person-of-" + r.name
	for _, role := range roles {
		r.create(&rbacv1.RoleBinding{
			ObjectMeta: r.named("person-" + role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		})
	}
	config := rest.CopyConfig(r.Plane.Config)
	config.Impersonate.UserName = user
	c := r.clientOf(config)
	// The cluster aggregates roles in the background.
	r.eventually("the person's rights", func() bool {
		return c.Create(context.Background(), r.secret("probe"), client.DryRunAll) == nil
	})
	return c
}

// forbids fails unless the API server forbids it.
func (r *rig) forbids(err error) {
	r.t.Helper()
	if !apierrors.IsForbidden(err) {
		r.t.Errorf("got %v, want it to be forbidden", err)
	}
}

// refuses fails unless the API server rejects it with this text.
func (r *rig) refuses(err error, text string) {
	r.t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		r.t.Errorf("got %v, want an error with %q", err, text)
	}
}

func TestAttemptsOfATenantWithEdit(t *testing.T) {
	attempts(t, []attempt{
		{"points leasekeeper to a server of their own", func(r *rig) {
			r.forbids(r.person("edit").Create(r.t.Context(), r.namespacedProvider()))
		}},
		{"revokes the leases of others", func(r *rig) {
			o := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
			o.Spec.ProviderRef.Name, o.Spec.Vault = r.name, &v1alpha1.VaultRevocation{Prefix: r.name + "/creds/"}
			r.forbids(r.person("edit").Create(r.t.Context(), o))
		}},
		{"writes a ledger", func(r *rig) {
			d := r.ready("orders")
			d.Status.Leases = nil
			r.forbids(r.person("edit").Status().Update(r.t.Context(), d))
		}},
		{"requests a Secret that becomes a ServiceAccount's token", func(r *rig) {
			d := r.secret("orders", func(d *v1alpha1.DynamicSecret) {
				d.Spec.Target.Type = "kubernetes.io/service-account-token"
			})
			r.refuses(r.person("edit").Create(r.t.Context(), d), ownRights)
		}},
		{"has a Secret of somebody else overwritten", func(r *rig) {
			r.create(&corev1.Secret{ObjectMeta: r.named("registry"), StringData: map[string]string{"username": "mine"}})
			r.must(r.person("edit").Create(r.t.Context(), r.secret("registry")))
			r.untilReason("registry", v1alpha1.StalledCondition, v1alpha1.ReasonTargetConflict)
			if got := string(r.target("registry").Data["username"]); got != "mine" || len(r.leases()) > 0 {
				r.t.Errorf("the Secret contains %q, and there are the leases %v", got, r.leases())
			}
		}},
		{"leases from a provider that excludes the namespace", func(r *rig) {
			change(r, r.provider(), func(p *v1alpha1.ClusterSecretProvider) {
				p.Spec.AllowedNamespaces = &v1alpha1.AllowedNamespaces{Names: []string{"elsewhere"}}
			})
			mark := r.vaultMark()
			r.must(r.person("edit").Create(r.t.Context(), r.secret("orders")))
			r.untilReason("orders", v1alpha1.ReadyCondition, v1alpha1.ReasonNamespaceNotAllowed)
			if n := r.minted(mark); n > 0 {
				r.t.Errorf("%d credentials were requested", n)
			}
		}},
	})
}

// inside is a server that trusts the manager's network, such as a Consul agent, at another address of the machine. It
// counts requests.
func inside(t *testing.T) (address string, requests *atomic.Int32) {
	t.Helper()
	requests = &atomic.Int32{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = w.Write([]byte(`{"request_id":"1","data":{"secret":"of the internal host"}}`))
	}))
	_ = s.Listener.Close()
	var err error
	if s.Listener, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, requests
}

func TestAttemptsOfAProvidersAuthor(t *testing.T) {
	author := func(r *rig) client.Client { return r.person("edit", "leasekeeper-provider-editor") }
	connects := func(r *rig, address, why string) {
		p := r.namespacedProvider()
		p.Spec.Vault.Address = address
		r.must(author(r).Create(r.t.Context(), p))
		message := untilStatus(r, p, v1alpha1.StalledCondition, v1alpha1.ReasonInvalidSpec)
		if !strings.Contains(message, why) {
			r.t.Errorf("the message is %q, want %q in it", message, why)
		}
	}
	rejects := func(path, value, text string) func(*rig) {
		return func(r *rig) {
			p := manifest(r.t, namespaced, "attempt")
			p.SetNamespace(r.name)
			set(r.t, p, path, value)
			r.refuses(author(r).Create(r.t.Context(), p), text)
		}
	}
	attempts(t, []attempt{
		{"reaches a server beside the manager", func(r *rig) {
			address, requests := inside(r.t)
			connects(r, address, `does not connect to "127.0.0.2", because it is a loopback address`)
			if requests.Load() > 0 {
				r.t.Error("it received a request")
			}
		}},
		{"reaches the metadata service of the cloud", func(r *rig) {
			connects(r, "http://169.254.169.254", "a link-local address")
		}},
		{"reaches a host that is not listed", func(r *rig) { connects(r, "http://192.0.2.1:8500", "not listed") }},
		{"obtains a token for the API server",
			rejects("spec.vault.auth.kubernetes.serviceAccountRef.audiences", "", "audiences: Required value")},
		{"obtains one by its audience", func(r *rig) {
			r.create(r.account("keeper"))
			p := r.namespacedProvider()
			p.Spec.Vault.KeeperAuth = r.provider().Spec.Vault.KeeperAuth
			ref := p.Spec.Vault.KeeperAuth.Kubernetes.ServiceAccountRef
			ref.Name, ref.Namespace, ref.Audiences = "keeper", "", []string{"https://kubernetes.default.svc"}
			r.must(author(r).Create(r.t.Context(), p))
			message := untilStatus(r, p, v1alpha1.StalledCondition, v1alpha1.ReasonInvalidSpec)
			if !strings.Contains(message, "leasekeeper-tokens") {
				r.t.Errorf("the message is %q", message)
			}
		}},
		{"sends a Secret of another namespace",
			rejects("spec.vault.auth", "{token: {secretRef: {name: token, namespace: kube-system}}}", ownSecrets)},
		{"acts as a ServiceAccount of another namespace",
			rejects("spec.vault.keeperAuth.kubernetes.serviceAccountRef.namespace", "kube-system", ownAccount)},
	})
}

func TestAttemptsWithTheManagersToken(t *testing.T) {
	stolen := func(r *rig) client.Client {
		config, err := r.Plane.ConfigForServiceAccount(r.t.Context(), testbed.ManagerNamespace, testbed.ManagerAccount)
		r.must(err)
		return r.clientOf(config)
	}
	requestToken := func(r *rig, audiences ...string) error {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
		return stolen(r).SubResource("token").Create(r.t.Context(), r.account("orders"), request)
	}
	secretOf := func(kind corev1.SecretType) func(*rig) {
		return func(r *rig) {
			s := &corev1.Secret{ObjectMeta: r.named("stolen"), Type: kind}
			s.Annotations = map[string]string{corev1.ServiceAccountNameKey: "orders"}
			r.refuses(stolen(r).Create(r.t.Context(), s), "a type that grants rights")
		}
	}
	attempts(t, []attempt{
		{"becomes a ServiceAccount with a token", func(r *rig) {
			const refusal = "tokens for these audiences only"
			r.refuses(requestToken(r), refusal)
			r.refuses(requestToken(r, "https://kubernetes.default.svc"), refusal)
			r.refuses(requestToken(r, "vault", "https://kubernetes.default.svc"), refusal)
			r.must(requestToken(r, "vault"))
		}},
		{"becomes a ServiceAccount with a Secret", secretOf(corev1.SecretTypeServiceAccountToken)},
		{"creates a bootstrap token", secretOf(corev1.SecretTypeBootstrapToken)},
		{"grants itself rights", func(r *rig) {
			b := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
			b.RoleRef = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
			r.forbids(stolen(r).Create(r.t.Context(), b))
		}},
		{"runs a pod", func(r *rig) {
			p := &corev1.Pod{ObjectMeta: r.named("stolen")}
			p.Spec.Containers = []corev1.Container{{Name: "shell", Image: "shell"}}
			r.forbids(stolen(r).Create(r.t.Context(), p))
		}},
		{"moves a provider to another server", func(r *rig) {
			p := r.provider()
			before := p.DeepCopy()
			p.Spec.Vault.Address = "http://127.0.0.1:1"
			r.refuses(stolen(r).Patch(r.t.Context(), p, client.MergeFrom(before)), fixedAddress)
		}},
		{"revokes all leases", func(r *rig) {
			o := &v1alpha1.LeaseRevocation{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
			o.Spec.ProviderRef.Name, o.Spec.Vault = r.name, &v1alpha1.VaultRevocation{Prefix: r.name + "/creds/"}
			r.forbids(stolen(r).Create(r.t.Context(), o))
		}},
	})
}

func TestAttemptsWithTheKeepersToken(t *testing.T) {
	denies := func(request func(ctx context.Context, r *rig, path string) error, path string) func(*rig) {
		return func(r *rig) {
			err := request(r.t.Context(), r, strings.ReplaceAll(path, "%s", r.name))
			r.refuses(err, "permission denied")
		}
	}
	jwt := func(ctx context.Context, r *rig) string {
		token, err := r.Plane.Token(ctx, testbed.ManagerNamespace, testbed.ManagerAccount, "vault")
		r.must(err)
		return token
	}
	read := func(ctx context.Context, r *rig, path string) error {
		keeper, err := r.Vault.Login(ctx, "kubernetes", "keeper", jwt(ctx, r))
		r.must(err)
		_, err = keeper.Logical().ReadWithContext(ctx, path)
		return err
	}
	list := func(ctx context.Context, r *rig, path string) error {
		keeper, err := r.Vault.Login(ctx, "kubernetes", "keeper", jwt(ctx, r))
		r.must(err)
		_, err = keeper.Logical().ListWithContext(ctx, path)
		return err
	}
	write := func(ctx context.Context, r *rig, path string) error {
		keeper, err := r.Vault.Login(ctx, "kubernetes", "keeper", jwt(ctx, r))
		r.must(err)
		_, err = keeper.Logical().WriteWithContext(ctx, path, map[string]any{"policies": []string{"root"}})
		return err
	}
	attempts(t, []attempt{
		{"leases a credential", denies(read, "%s/creds/orders")},
		{"creates a token", denies(write, "auth/token/create")},
		{"lists the accessors of all tokens", denies(list, "auth/token/accessors")},
		{"changes a policy", denies(write, "sys/policies/acl/keeper")},
		{"revokes all leases of a path", denies(write, "sys/leases/revoke-prefix/%s/creds")},
		{"logs in as the workload", func(r *rig) {
			_, err := r.Vault.Login(r.t.Context(), "kubernetes", r.name, jwt(r.t.Context(), r))
			r.refuses(err, "not authorized")
		}},
	})
}

// hostile puts a server in front of Vault that serves everything except one path. It returns the provider's address.
func hostile(r *rig, path string, serve http.HandlerFunc) string {
	r.t.Helper()
	vault, err := url.Parse(r.Vault.Address)
	r.must(err)
	honest := httputil.NewSingleHostReverseProxy(vault)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v1/"+path {
			serve(w, q)
			return
		}
		honest.ServeHTTP(w, q)
	}))
	r.t.Cleanup(s.Close)
	return s.URL
}

// leasesFrom creates a DynamicSecret for a path of a hostile Vault, and waits until it has failed for the reason.
func (r *rig) leasesFrom(path, reason, text string, serve http.HandlerFunc) {
	r.t.Helper()
	p := r.newProvider(hostile(r, path, serve))
	p.Name = r.name + "-hostile"
	r.create(p)
	r.t.Cleanup(func() { r.discard(p) })
	r.apply("orders", func(d *v1alpha1.DynamicSecret) {
		d.Spec.ProviderRef.Name, d.Spec.Vault.Path, d.Spec.Vault.Method = p.Name, path, v1alpha1.MethodWrite
	})
	if message := r.untilReason("orders", v1alpha1.ReadyCondition, reason); !strings.Contains(message, text) {
		r.t.Errorf("the message is %q, want %q in it", message, text)
	}
	if r.target("orders") != nil {
		r.t.Error("there is a Secret")
	}
}

func responds(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func TestAttemptsOfAHostileVault(t *testing.T) {
	type values = map[string]any
	attempts(t, []attempt{
		{"redirects the issuance to an internal host", func(r *rig) {
			const path = "agent/service/register"
			address, requests := inside(r.t)
			redirect := http.RedirectHandler(address+"/v1/"+path, http.StatusTemporaryRedirect).ServeHTTP
			r.leasesFrom(path, v1alpha1.ReasonBackendUnavailable, `redirected to host "127.0.0.2"`, redirect)
			if requests.Load() > 0 {
				r.t.Error("the internal host received the request")
			}
		}},
		{"returns a lease of somebody else", func(r *rig) {
			r.leasesFrom("evil/creds/orders", v1alpha1.ReasonInvalidResponse, "another path", responds(200, values{
				"request_id": "1", "lease_id": r.name + "/creds/orders/x", "lease_duration": 60,
				"data": values{"username": "u"},
			}))
		}},
		{"returns the token in an error", func(r *rig) {
			var token atomic.Value
			r.leasesFrom("evil/creds/orders", v1alpha1.ReasonRequestRefused, "sent", func(
				w http.ResponseWriter, q *http.Request,
			) {
				token.Store(q.Header.Get("X-Vault-Token"))
				responds(400, values{"errors": []string{"sent " + token.Load().(string)}})(w, q)
			})
			text, err := json.Marshal(r.get("orders"))
			if r.must(err); strings.Contains(string(text), token.Load().(string)) {
				r.t.Error("the status contains the token")
			}
		}},
		{"returns more than a Secret holds", func(r *rig) {
			r.leasesFrom("evil/creds/orders", v1alpha1.ReasonInvalidResponse, "", responds(200, values{
				"request_id": "1", "data": values{"password": strings.Repeat("x", 3<<20)},
			}))
		}},
		{"returns a field that is a path", func(r *rig) {
			const field = "../authorized_keys"
			r.leasesFrom("evil/creds/orders", v1alpha1.ReasonInvalidResponse, field, responds(200, values{
				"request_id": "1", "data": values{field: "x"},
			}))
		}},
	})
}

func TestAttemptsOfAWriterOfStatus(t *testing.T) {
	attempts(t, []attempt{
		{"has the lease of another object revoked", func(r *rig) {
			victim := r.ready("victim")
			r.ready("forged")
			r.forge("forged", *record(victim))
			r.eventually("an event about it", func() bool { return r.countEvents(revokeFailed) > 0 })
			r.must(r.login(r.target("victim")))
		}},
		{"has a token of another namespace revoked", func(r *rig) {
			other := newRig(r.t, shared)
			victim := other.ready("victim")
			r.ready("forged")
			rec := *record(r.get("forged"))
			rec.SetHandle(accessor(victim))
			rec.ID, rec.Kind = "", ""
			// Only Vault can say whose token it is.
			other.edit("victim", func(d *v1alpha1.DynamicSecret) { d.Spec.Lease.OnDelete = v1alpha1.OnDeleteAbandon })
			other.remove("victim")
			r.forge("forged", rec)
			r.eventually("the record to be abandoned", func() bool {
				return r.countEvents(v1alpha1.ReasonAbandoned) > 0
			})
			if len(other.leases()) != 1 {
				r.t.Error("the other namespace's lease was revoked")
			}
		}},
		{"sends leasekeeper to another server", func(r *rig) {
			address, requests := inside(r.t)
			rec := *record(r.ready("forged"))
			rec.Vault = rec.Vault.DeepCopy()
			rec.Vault.Address, rec.ID = address, rec.ID+"x"
			rec.UserDigest = "" // it would be kept for the sake of the user that both leases have
			r.forge("forged", rec)
			r.eventually("an event about it", func() bool { return r.countEvents(revokeFailed) > 0 })
			if requests.Load() > 0 {
				r.t.Error("it received a request")
			}
		}},
		{"has a Secret of somebody else deleted", func(r *rig) {
			foreign := &corev1.Secret{ObjectMeta: r.named("registry")}
			r.create(foreign)
			r.ready("forged")
			r.forgeStatus("forged", func(st *v1alpha1.DynamicSecretStatus) {
				st.Secret.Name, st.Secret.UID = foreign.Name, foreign.UID
				st.Secret.ResourceVersion = foreign.ResourceVersion
			})
			r.remove("forged")
			if r.target("registry") == nil {
				r.t.Error("the Secret was deleted")
			}
		}},
	})
}
