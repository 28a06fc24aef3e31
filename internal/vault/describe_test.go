package vault

import (
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func (f *fixture) describe(t *testing.T, who backend.Identity, src v1alpha1.SecretSource) v1alpha1.LeaseRecord {
	t.Helper()
	rec, err := f.driver.Describe(f.provider, who, src)
	wantNil(t, err)
	return rec
}

// A change of this digest replaces every credential at the next upgrade.
func TestTheRequestDigestIsStable(t *testing.T) {
	f := newFixtureAt(t, nil, "https://vault.example:8200")
	const want = "1:52883c3e937e9f36"
	if got := f.describe(t, who, read).RequestDigest; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDescribe(t *testing.T) {
	f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) { p.Spec.Vault.Namespace = "team" })
	rec := f.describe(t, who, read)
	if want := (v1alpha1.VaultRecord{Address: f.server.URL, Namespace: "team", Path: readPath}); *rec.Vault != want {
		t.Errorf("got %+v, want %+v", *rec.Vault, want)
	}
	inB := func(req *v1alpha1.VaultRequest) { req.Namespace = "team/b" }
	if got := f.describe(t, who, source(readPath, inB)).Vault.Namespace; got != "team/b" {
		t.Errorf("the source's namespace became %q", got)
	}
	rec, err := f.driver.Describe(f.provider, backend.Identity{Namespace: "shop"}, read)
	wantKind(t, err, backend.NoServiceAccount)
	wantText(t, err, "spec.serviceAccountName", "auth.kubernetes.serviceAccountRef")
	if rec.Vault == nil || rec.RequestDigest == "" {
		t.Error("the record is not described")
	}
	_, err = f.driver.Describe(f.provider, who, v1alpha1.SecretSource{})
	wantKind(t, err, backend.Misconfigured)
	f.provider.Spec.Vault.Auth.Kubernetes.ServiceAccountRef.Name = "orders"
	if a, b := f.describe(t, backend.Identity{}, read), f.describe(t, who, read); a.RequestDigest != b.RequestDigest {
		t.Error("the provider's ServiceAccount has another digest than the same one of the object")
	}
}

func TestWhatChangesTheRequestDigest(t *testing.T) {
	f := newFixture(t)
	digest := func(src v1alpha1.SecretSource) string { return f.describe(t, who, src).RequestDigest }
	params := func(text string) v1alpha1.SecretSource {
		return source(readPath, parameters(map[string]string{"p": text}))
	}
	same := [][2]v1alpha1.SecretSource{
		{read, source(readPath, func(req *v1alpha1.VaultRequest) { req.Method = v1alpha1.MethodRead })},
		{params(`{"a":1,"b":[2]}`), params(` {"b": [2], "a": 1} `)},
		{read, {Name: "db", Vault: read.Vault}},
		{read, source(readPath, parameters(nil))},
		{
			source(readPath, from("p", "a", "k"), from("q", "a", "l")),
			source(readPath, from("q", "a", "l"), from("p", "a", "k")),
		},
		{
			source(readPath, generating(v1alpha1.PrivateKeySpec{})),
			source(readPath, generating(v1alpha1.PrivateKeySpec{Algorithm: v1alpha1.AlgorithmECDSA, Size: 256})),
		},
	}
	for i, pair := range same {
		if digest(pair[0]) != digest(pair[1]) {
			t.Errorf("same %d: different digests", i)
		}
	}
	seen := map[string]int{}
	for i, src := range []v1alpha1.SecretSource{
		read, source(readPath, write), source("database/creds/other"),
		params(`1`), params(`"1"`), params(`1.0`), params(`null`),
		source(readPath, func(req *v1alpha1.VaultRequest) { req.Namespace = "x" }),
		source(readPath, func(req *v1alpha1.VaultRequest) { req.CustomMetadata = true }),
		source(readPath, from("p", "a", "k")), source(readPath, from("p", "b", "k")),
		source(readPath, generating(v1alpha1.PrivateKeySpec{})),
		source(readPath, generating(v1alpha1.PrivateKeySpec{Size: 384})),
		source(readPath, generating(v1alpha1.PrivateKeySpec{Algorithm: v1alpha1.AlgorithmRSA})),
	} {
		if j, has := seen[digest(src)]; has || !strings.HasPrefix(digest(src), "1:") {
			t.Errorf("%d has the digest %s of %d", i, digest(src), j)
		}
		seen[digest(src)] = i
	}
	other := who
	other.ServiceAccount = "other"
	if f.describe(t, other, read).RequestDigest == digest(read) {
		t.Error("another ServiceAccount has the same digest")
	}
	other.Owner.UID, other.ServiceAccount, other.MinTTL = "x", who.ServiceAccount, 1
	if f.describe(t, other, read).RequestDigest != digest(read) {
		t.Error("another owner has another digest")
	}
}

func TestTokenAuthIgnoresTheServiceAccount(t *testing.T) {
	f := newFixture(t, withTokenAuth)
	if f.describe(t, who, read).RequestDigest != f.describe(t, backend.Identity{}, read).RequestDigest {
		t.Error("the ServiceAccount changes the digest")
	}
}

func TestHolds(t *testing.T) {
	f := newFixture(t)
	rec := f.describe(t, who, read)
	wantKind(t, f.driver.Holds(f.provider, &rec), "")
	rec.Vault.Address = "https://elsewhere.example"
	err := f.driver.Holds(f.provider, &rec)
	wantKind(t, err, backend.Misconfigured)
	wantText(t, err, "ClusterSecretProvider vault", "https://elsewhere.example")
}
