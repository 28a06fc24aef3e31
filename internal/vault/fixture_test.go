package vault

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeKube responds from maps by "namespace/name".
type fakeKube struct {
	mu         sync.Mutex
	secrets    map[string]*corev1.Secret
	configMaps map[string]*corev1.ConfigMap
	// refuse is the error of RequestToken.
	refuse   error
	requests int
	reads    int
}

func (k *fakeKube) GetSecret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads++
	if secret, ok := k.secrets[namespace+"/"+name]; ok {
		return secret, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (k *fakeKube) GetConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads++
	if configMap, ok := k.configMaps[namespace+"/"+name]; ok {
		return configMap, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (k *fakeKube) RequestToken(
	_ context.Context, namespace, name string, _ []string, seconds int64,
) (string, time.Duration, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuse != nil {
		return "", 0, k.refuse
	}
	k.requests++
	return fmt.Sprintf("jwt-%s-%s-%d", namespace, name, k.requests), time.Duration(seconds) * time.Second, nil
}

func (k *fakeKube) tokensRequested() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.requests
}

// request is what the fake server received.
type request struct {
	method, path, query, token, namespace string
	body                                  map[string]any
	direct, http2, chunked                bool
}

// says is its response.
type says struct {
	status int
	body   string
	header http.Header
	// hang delays the response until the test ends; hangUp breaks the connection.
	hang, hangUp bool
}

func ok(body string) says { return says{status: http.StatusOK, body: body} }
func nothing() says       { return says{status: http.StatusNoContent} }
func errs(status int, text ...string) says {
	encoded, _ := json.Marshal(map[string][]string{"errors": append([]string{}, text...)})
	return says{status: status, body: string(encoded)}
}

// server is a Vault with the responses of a test. Logins of the roles app and keeper work without any.
type server struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	got     []request
	answers map[string]func(request) says
	logins  int
	// ended is closed when the test ends.
	ended chan struct{}
}

func newServer(t *testing.T) *server {
	s := &server{t: t, answers: map[string]func(request) says{}, ended: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(s.ended) })
	s.on("auth/kubernetes/login", func(r request) says {
		s.logins++
		return ok(fmt.Sprintf(`{"request_id":"1","auth":{"client_token":"hvs.%s%d","accessor":"acc%d",`+
			`"lease_duration":3600,"renewable":true,"num_uses":0}}`,
			r.body["role"], s.logins, s.logins))
	})
	s.on("auth/token/revoke-self", func(request) says { return nothing() })
	return s
}

// on sets the response of a path.
func (s *server) on(path string, answer func(request) says) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
}

func (s *server) always(path string, answer says) { s.on(path, func(request) says { return answer }) }

// inTurn sends the first response to the first request, and so on; the last one is repeated.
func (s *server) inTurn(path string, answers ...says) {
	n := 0
	s.on(path, func(request) says {
		n++
		return answers[min(n, len(answers))-1]
	})
}

func (s *server) requests(path string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []request
	for _, r := range s.got {
		if r.path == path {
			found = append(found, r)
		}
	}
	return found
}

func (s *server) paths() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, r := range s.got {
		all = append(all, r.path)
	}
	return strings.Join(all, " ")
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	got := request{
		method: r.Method, path: strings.TrimPrefix(r.URL.Path, "/v1/"),
		query: r.URL.RawQuery, token: r.Header.Get("X-Vault-Token"),
		namespace: r.Header.Get("X-Vault-Namespace"), direct: r.Header.Get("X-Vault-No-Request-Forwarding") != "",
	}
	got.http2, got.chunked = r.ProtoMajor == 2, len(r.TransferEncoding) > 0
	_ = json.Unmarshal(raw, &got.body)
	s.mu.Lock()
	s.got = append(s.got, got)
	answer := errs(http.StatusNotFound)
	if on := s.answers[got.path]; on != nil {
		answer = on(got)
	}
	s.mu.Unlock()
	if answer.hang {
		<-s.ended
		return
	}
	if answer.hangUp {
		panic(http.ErrAbortHandler)
	}
	for key, values := range answer.header {
		w.Header()[key] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(answer.status)
	_, _ = io.WriteString(w, answer.body)
}

// fixture is a backend over such a server.
type fixture struct {
	*Backend
	server   *server
	kube     *fakeKube
	clock    *clocktesting.FakePassiveClock
	driver   *Driver
	provider *v1alpha1.ClusterSecretProvider
}

type change func(*v1alpha1.ClusterSecretProvider, *Options)

func withTokenAuth(p *v1alpha1.ClusterSecretProvider, _ *Options) {
	p.Spec.Vault.Auth = v1alpha1.VaultAuth{Token: &v1alpha1.VaultTokenAuth{SecretRef: v1alpha1.SecretKeyReference{
		SecretReference: v1alpha1.SecretReference{Name: "root", Namespace: "system"},
	}}}
}

func newFixture(t *testing.T, changes ...change) *fixture {
	t.Helper()
	s := newServer(t)
	return newFixtureAt(t, s, s.URL, changes...)
}

func newFixtureAt(t *testing.T, s *server, address string, changes ...change) *fixture {
	t.Helper()
	f := &fixture{
		server: s, clock: clocktesting.NewFakePassiveClock(epoch),
		kube: &fakeKube{
			secrets: map[string]*corev1.Secret{
				"system/root": {Data: map[string][]byte{"token": []byte("hvs.static-secret-token\n")}},
			},
		},
	}
	f.provider = &v1alpha1.ClusterSecretProvider{
		ObjectMeta: metav1.ObjectMeta{Name: "vault", UID: types.UID("uid"), Generation: 1},
		Spec: v1alpha1.ClusterSecretProviderSpec{ProviderSpec: v1alpha1.ProviderSpec{Vault: &v1alpha1.VaultProvider{
			Address: address,
			Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
				Mount: "kubernetes", Role: "app", ServiceAccountRef: serviceAccount("", ""),
			}},
			KeeperAuth: &v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
				Mount: "kubernetes", Role: "keeper",
				ServiceAccountRef: serviceAccount("leasekeeper", "system"),
			}},
		}}},
	}
	opts := Options{
		Clock: f.clock, Kube: f.kube, Timeout: 5 * time.Second, IssueTimeout: 5 * time.Second,
		Sleep:            func(context.Context, time.Duration) error { return nil },
		AllowedAddresses: loopback,
	}
	for _, c := range changes {
		c(f.provider, &opts)
	}
	f.driver = NewDriver(opts)
	var err error
	if f.Backend, err = f.driver.backendFor(t.Context(), f.provider); err != nil {
		t.Fatal(err)
	}
	return f
}

// loopback is where the tests' servers are.
var loopback = must(ParseHosts([]string{"127.0.0.0/8", "::1"}))

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

var (
	who   = backend.Identity{Namespace: "shop", ServiceAccount: "orders", Owner: owner}
	owner = backend.Owner{Namespace: "shop", Name: "orders-db", UID: "owner-uid"}
	read  = source("database/creds/orders")
	at    = backend.Session{Token: "hvs.session-token-of-the-test", Handle: "acc"}
)

const readPath = "database/creds/orders"

// source reads the path.
func source(path string, changes ...func(*v1alpha1.VaultRequest)) v1alpha1.SecretSource {
	req := &v1alpha1.VaultRequest{Path: path}
	for _, change := range changes {
		change(req)
	}
	return v1alpha1.SecretSource{Vault: req}
}

func write(req *v1alpha1.VaultRequest) { req.Method = v1alpha1.MethodWrite }

func parameters(values map[string]string) func(*v1alpha1.VaultRequest) {
	return func(req *v1alpha1.VaultRequest) {
		req.Parameters = map[string]apiextensionsv1.JSON{}
		for name, value := range values {
			req.Parameters[name] = apiextensionsv1.JSON{Raw: []byte(value)}
		}
	}
}

func record() v1alpha1.LeaseRecord { return recordOf(readPath, readPath+"/abc", "acc") }

func recordOf(path, id, accessor string) v1alpha1.LeaseRecord {
	return v1alpha1.LeaseRecord{ID: id, Vault: &v1alpha1.VaultRecord{Path: path, TokenAccessor: accessor}}
}

// wantKind fails unless err is an error of the Backend of this kind; an empty kind expects no error.
func wantKind(t *testing.T, err error, kind backend.ErrorKind) {
	t.Helper()
	if kind == "" {
		if err != nil {
			t.Fatalf("got %v (%s), want no error", err, backend.KindOf(err))
		}
		return
	}
	if err == nil || backend.KindOf(err) != kind {
		t.Fatalf("got %v (%s), want kind %s", err, backend.KindOf(err), kind)
	}
	var ours *backend.Error
	if !errors.As(err, &ours) {
		t.Fatalf("got %T, want *backend.Error", err)
	}
}

func wantText(t *testing.T, err error, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if err == nil || !strings.Contains(err.Error(), piece) {
			t.Errorf("got %q, want it to name %q", fmt.Sprint(err), piece)
		}
	}
}

func newProviderSpec() *v1alpha1.VaultProvider {
	return &v1alpha1.VaultProvider{Auth: v1alpha1.VaultAuth{Kubernetes: &v1alpha1.VaultKubernetesAuth{
		Role: "app", ServiceAccountRef: serviceAccount("", ""),
	}}}
}

func serviceAccount(name, namespace string) *v1alpha1.ServiceAccountReference {
	return &v1alpha1.ServiceAccountReference{Name: name, Namespace: namespace, Audiences: []string{"vault"}}
}

func mustURL(text string) *url.URL {
	parsed, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return parsed
}

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
