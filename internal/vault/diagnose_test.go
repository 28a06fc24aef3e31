package vault

import (
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestRefusedRequestsAreDiagnosed(t *testing.T) {
	mount := func(path, kind, version string) says {
		return ok(`{"request_id":"1","data":{"path":"` + path + `","type":"` + kind + `","options":{"version":"` +
			version + `"}}}`)
	}
	may := func(path, capabilities string) says {
		return ok(`{"request_id":"1","data":{"` + path + `":[` + capabilities + `]}}`)
	}
	versioned := says{status: 404,
		body: `{"request_id":"1","warnings":["Invalid path for a versioned K/V secrets engine."]}`}
	unsupported := errs(405, "1 error occurred:\n\t* unsupported operation\n\n")
	refused := errs(403, "1 error occurred:\n\t* permission denied\n\n")
	none := errs(403, "preflight capability check returned 403")
	for name, test := range map[string]struct {
		path               string
		write              bool
		answer             says
		mount, capable     says
		kind               backend.ErrorKind
		want, doesNotClaim string
	}{
		"KV 2 without data/, refused": {"secret/invoices", false, refused, mount("secret/", "kv", "2"), none,
			backend.NotFound, `use "secret/data/invoices"`, "policy"},
		"KV 2 below a nested mount, refused": {"team/kv/foo", false, refused, mount("team/kv/", "kv", "2"), none,
			backend.NotFound, `use "team/kv/data/foo"`, "policy"},
		"KV 2 below a nested mount, not found": {"team/kv/foo", false, versioned, mount("team/kv/", "kv", "2"), none,
			backend.NotFound, `use "team/kv/data/foo"`, "team/data"},
		"KV 2 below an unknown mount": {"team/kv/foo", false, versioned, none, none,
			backend.NotFound, "data/ after the mount", "use"},
		"KV 2 with two segments": {"secret/invoices", false, versioned, none, none,
			backend.NotFound, `use "secret/data/invoices"`, ""},
		"KV 2 with data/": {"secret/data/invoices", false, refused, mount("secret/", "kv", "2"), none,
			backend.Denied, `lacks "read" on "secret/data/invoices"`, "use"},
		"KV 1": {"secret/invoices", false, refused, mount("secret/", "kv", "1"), none,
			backend.Denied, `lacks "read" on "secret/invoices"`, "use"},
		"a mount of another path": {"secret/invoices", false, refused, mount("other/", "kv", "2"), none,
			backend.Denied, `lacks "read"`, "use"},
		"a read of a path that only writes": {"pki/issue/web", false, unsupported, none, none,
			backend.Refused, "set method: Write", ""},
		"a policy that only permits to write": {"pki/issue/web", false, refused, mount("pki/", "pki", ""),
			may("pki/issue/web", `"update"`), backend.Denied, "set method: Write", ""},
		"a policy that permits nothing": {"pki/issue/web", false, refused, mount("pki/", "pki", ""),
			may("pki/issue/web", `"deny"`), backend.Denied, `lacks "read"`, "Write"},
		"a write": {"pki/issue/web", true, refused, mount("pki/", "pki", ""), may("pki/issue/web", `"read"`),
			backend.Denied, `lacks "update"`, "Write"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.server.always(test.path, test.answer)
			f.server.always("sys/internal/ui/mounts/"+test.path, test.mount)
			f.server.always("sys/capabilities-self", test.capable)
			src := source(test.path)
			if test.write {
				src = source(test.path, write)
			}
			_, err := f.Issue(t.Context(), at, src)
			wantKind(t, err, test.kind)
			wantText(t, err, test.want)
			if test.doesNotClaim != "" && strings.Contains(err.Error(), test.doesNotClaim) {
				t.Errorf("%q contains %q", err, test.doesNotClaim)
			}
			if n := len(f.server.requests(test.path)); n != 1 {
				t.Errorf("the request was sent %d times", n)
			}
		})
	}
}

func TestCommunityVaultIgnoresNamespaces(t *testing.T) {
	for name, test := range map[string]struct {
		namespace, health string
		reported          bool
	}{
		"community":             {"team", `{"initialized":true,"enterprise":false,"version":"1.21.0"}`, true},
		"community, root":       {"root", `{"initialized":true,"enterprise":false,"version":"1.21.0"}`, false},
		"community, without":    {"", `{"initialized":true,"enterprise":false,"version":"1.21.0"}`, false},
		"enterprise":            {"team", `{"initialized":true,"enterprise":true,"version":"1.21.0+ent"}`, false},
		"OpenBao":               {"team", `{"initialized":true,"version":"2.3.1"}`, false},
		"OpenBao of no version": {"team", `{"initialized":true}`, false},
		"OpenBao before 2.3":    {"team", `{"initialized":true,"version":"2.2.2"}`, true},
		"a late OpenBao":        {"team", `{"initialized":true,"version":"2.20.0"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(p *v1alpha1.ClusterSecretProvider, _ *Options) {
				p.Spec.Vault.Namespace = test.namespace
			})
			f.server.always("sys/health", ok(test.health))
			f.server.always("sys/capabilities-self", ok(`{"request_id":"1","data":{}}`))
			report, err := f.Inspect(t.Context())
			wantNil(t, err)
			if got := strings.Contains(strings.Join(report.Notes, " "), "no namespaces"); got != test.reported {
				t.Errorf("the notes are %q", report.Notes)
			}
			f.server.always("sys/capabilities-self", errs(500, "internal error"))
			_, err = f.Inspect(t.Context())
			wantKind(t, err, backend.Failed)
			if got := strings.Contains(err.Error(), "no namespaces"); got != test.reported {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

func TestANamespaceThatTheServerIgnoresIsRejectedBeforeItIsRequested(t *testing.T) {
	const community, enterprise = `{"initialized":true,"enterprise":false,"version":"1.21.0"}`,
		`{"initialized":true,"enterprise":true,"version":"1.21.0+ent"}`
	in := func(namespace, name string) v1alpha1.SecretSource {
		src := source(readPath, func(req *v1alpha1.VaultRequest) { req.Namespace = namespace })
		src.Name = name
		return src
	}
	for name, test := range map[string]struct {
		health string
		src    v1alpha1.SecretSource
		field  string // empty: accepted
	}{
		"community":                {community, in("team", ""), "spec.vault.namespace"},
		"community, of a source":   {community, in("team", "db"), "spec.sources[db].vault.namespace"},
		"community, root":          {community, in("root", ""), ""},
		"community, without":       {community, in("", ""), ""},
		"enterprise":               {enterprise, in("team", ""), ""},
		"OpenBao":                  {`{"initialized":true,"version":"2.3.0"}`, in("team", ""), ""},
		"OpenBao, too old":         {`{"initialized":true,"version":"2.1.0"}`, in("team", ""), "spec.vault.namespace"},
		"a server that is unknown": {`<html>`, in("team", ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			before := f.describe(t, who, test.src)
			f.server.always("sys/health", ok(test.health))
			_, _ = f.Inspect(t.Context())
			check := func() {
				t.Helper()
				rec, err := f.driver.Describe(f.provider, who, test.src)
				if test.field == "" {
					wantNil(t, err)
				} else {
					wantKind(t, err, backend.Misconfigured)
					wantText(t, err, test.field+" is set", "no namespaces")
				}
				if rec.RequestDigest != before.RequestDigest {
					t.Error("what the server has changes the digest")
				}
			}
			check()
			f.provider.Generation++ // a new backend for the same server
			_, err := f.driver.Backend(t.Context(), f.provider)
			wantNil(t, err)
			check()
		})
	}
}

func TestARefusedLoginNamesTheCause(t *testing.T) {
	f := newFixture(t)
	for text, want := range map[string]string{
		"permission denied": "token_reviewer_jwt",
		"invalid audience (aud) claim: audience claim does not match any expected audience": "audience of the role",
		"service account name not authorized":                                               "bound names",
	} {
		f.server.always("auth/kubernetes/login", errs(403, text))
		_, err := f.Login(t.Context(), who)
		wantKind(t, err, backend.LoginFailed)
		wantText(t, err, want)
	}
}
