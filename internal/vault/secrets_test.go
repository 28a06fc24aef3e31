package vault

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

var loginRef = v1alpha1.SecretKeyReference{
	SecretReference: v1alpha1.SecretReference{Name: "login", Namespace: "system"},
}

func withUserPass(p *v1alpha1.ClusterSecretProvider, _ *Options) {
	p.Spec.Vault.Auth = v1alpha1.VaultAuth{
		UserPass: &v1alpha1.VaultUserPassAuth{Username: "orders", SecretRef: loginRef},
	}
}

func withWrappedAppRole(p *v1alpha1.ClusterSecretProvider, _ *Options) {
	p.Spec.Vault.Auth = v1alpha1.VaultAuth{
		AppRole: &v1alpha1.VaultAppRoleAuth{RoleID: "role-id", SecretRef: loginRef, Wrapped: true},
	}
}

// put sets a key of the Secret that the provider logs in with.
func (f *fixture) put(key, value string) {
	f.kube.mu.Lock()
	defer f.kube.mu.Unlock()
	f.kube.secrets["system/login"] = &corev1.Secret{Data: map[string][]byte{key: []byte(value)}}
}

const userLogin = "auth/userpass/login/orders"

// knowing accepts only this password.
func knowing(password string) func(request) says {
	return func(r request) says {
		if r.body["password"] == password {
			return loginResponse("acc", 3600, 0)
		}
		return errs(400, "invalid username or password")
	}
}

func TestASecretIsReadOnceAMinuteByAllLogins(t *testing.T) {
	f := newFixture(t, withUserPass)
	f.put("password", "first")
	f.server.on(userLogin, knowing("first"))
	for range 5 {
		_, err := f.Login(t.Context(), who)
		wantKind(t, err, "")
	}
	if f.kube.reads != 1 {
		t.Errorf("the Secret was read %d times by five logins, want once", f.kube.reads)
	}
	f.clock.SetTime(epoch.Add(2 * time.Minute))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	if f.kube.reads != 2 {
		t.Errorf("the Secret was read %d times after two minutes, want 2", f.kube.reads)
	}
}

func TestANewPasswordIsUsedAtOnce(t *testing.T) {
	f := newFixture(t, withUserPass)
	f.put("password", "first")
	f.server.on(userLogin, knowing("first"))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	f.put("password", "second")
	f.server.on(userLogin, knowing("second"))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, "")
	if n := len(f.server.requests(userLogin)); n != 3 {
		t.Errorf("%d logins, want one with the old password that was refused, and one with the new one", n)
	}
}

func TestAMissingKeyIsNoticedAtOnceWhenItIsAdded(t *testing.T) {
	f := newFixture(t, withUserPass)
	f.put("other", "x")
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, backend.Misconfigured)
	wantText(t, err, "auth.userPass.secretRef", `"password"`)
	f.put("password", "first")
	f.server.on(userLogin, knowing("first"))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, "")
}

func TestAWrongPasswordDoesNotLockTheUser(t *testing.T) {
	f := newFixture(t, withUserPass)
	f.put("password", "wrong")
	f.server.on(userLogin, knowing("right"))
	var first error
	for minute := range 60 {
		f.clock.SetTime(epoch.Add(time.Duration(minute) * time.Minute))
		for range 3 {
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, backend.LoginFailed)
			if first == nil {
				first = err
			}
			if err.Error() != first.Error() {
				t.Fatalf("the message changes: %v, then %v", first, err)
			}
		}
	}
	// At minute 0, 1, 5, 21, 37 and 53. Vault locks a user after the fifth refusal if each follows within 15 minutes.
	if n := len(f.server.requests(userLogin)); n != 6 {
		t.Errorf("%d logins with the same wrong password within an hour, want 6", n)
	}
	wantText(t, first, "check the password in Secret system/login")
	if strings.Contains(first.Error(), `"wrong"`) {
		t.Error("the message has the password in it")
	}
	f.put("password", "right")
	f.clock.SetTime(epoch.Add(61 * time.Minute))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
}

func TestAChangedProviderTriesARefusedPasswordAgain(t *testing.T) {
	f := newFixture(t, withUserPass)
	f.put("password", "right")
	f.server.on(userLogin, knowing("another"))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
	f.server.on(userLogin, knowing("right"))
	_, err = f.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
	f.provider.Generation = 2
	b, err := f.driver.backendFor(t.Context(), f.provider)
	wantNil(t, err)
	_, err = b.Login(t.Context(), who)
	wantKind(t, err, "")
}

const unwrapPath = "sys/wrapping/unwrap"

func TestASecretIDIsUnwrappedOnce(t *testing.T) {
	f := newFixture(t, withWrappedAppRole)
	f.put("secretId", "hvs.wrapping-token")
	f.server.inTurn(unwrapPath, ok(`{"request_id":"1","data":{"secret_id":"the-secret-id","secret_id_num_uses":0}}`),
		errs(400, "wrapping token is not valid or does not exist"))
	f.server.on("auth/approle/login", func(r request) says {
		if r.body["secret_id"] != "the-secret-id" {
			return errs(400, "invalid role or secret ID")
		}
		return loginResponse("acc", 3600, 0)
	})
	for range 3 {
		_, err := f.Login(t.Context(), who)
		wantKind(t, err, "")
	}
	// A change of the spec makes another backend; the secret id is still known.
	f.provider.Generation = 2
	b, err := f.driver.backendFor(t.Context(), f.provider)
	wantNil(t, err)
	_, err = b.Login(t.Context(), who)
	wantKind(t, err, "")
	sent := f.server.requests(unwrapPath)
	if len(sent) != 1 || sent[0].token != "hvs.wrapping-token" {
		t.Errorf("the wrapping token was used %d times, want once", len(sent))
	}
}

// A wrapping token that was used is useless to everyone who reads it later, so it must not lead to what it wrapped.
func TestNoOtherProviderUsesAnUnwrappedSecretID(t *testing.T) {
	f := newFixture(t, withWrappedAppRole)
	f.put("secretId", "hvs.wrapping-token")
	f.server.inTurn(unwrapPath, ok(`{"request_id":"1","data":{"secret_id":"the-secret-id"}}`),
		errs(400, "wrapping token is not valid or does not exist"))
	f.server.always("auth/approle/login", loginResponse("acc", 3600, 0))
	_, err := f.Login(t.Context(), who)
	wantKind(t, err, "")
	for name, change := range map[string]func(*v1alpha1.ClusterSecretProvider){
		"another name": func(p *v1alpha1.ClusterSecretProvider) { p.Name, p.UID = "copy", "copy" },
		"another UID":  func(p *v1alpha1.ClusterSecretProvider) { p.UID = "again" },
	} {
		other := f.provider.DeepCopy()
		change(other)
		b, err := f.driver.backendFor(t.Context(), other)
		wantNil(t, err)
		if _, err = b.Login(t.Context(), who); backend.KindOf(err) != backend.LoginFailed {
			t.Errorf("a provider with %s: got %v, want %s", name, err, backend.LoginFailed)
		}
	}
	f.driver.Forget(f.provider)
	b, err := f.driver.backendFor(t.Context(), f.provider)
	wantNil(t, err)
	_, err = b.Login(t.Context(), who)
	wantKind(t, err, backend.LoginFailed)
}

func TestAFullCacheDropsTheLeastRecentlyUsed(t *testing.T) {
	made := 0
	r := newRecent[int](3)
	for _, c := range []struct {
		key  string
		want int
	}{
		{"a", 1}, {"b", 2}, {"c", 3}, {"a", 1}, {"d", 4}, {"c", 3}, {"a", 1}, {"b", 5},
	} {
		got := r.get(c.key, func() int { made++; return made })
		if got != c.want {
			t.Errorf("%s: got value %d, want %d", c.key, got, c.want)
		}
	}
}

func TestAnOutageUsesNoWrappingTokenUp(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		kind backend.ErrorKind
	}{
		"a standby without an active node": {
			"local node not active but active cluster node not found", backend.Unavailable,
		},
		"a sealed node":     {"Vault is sealed", backend.Unavailable},
		"a lost leadership": {"error looking up wrapping token: node is not the leader", backend.Unavailable},
		"a seal in a text":  {"error validating wrapping token: Vault is sealed", backend.Failed},
		"a slow storage":    {"error looking up wrapping token: context deadline exceeded", backend.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withWrappedAppRole)
			f.put("secretId", "hvs.wrapping-token")
			f.server.inTurn(unwrapPath, errs(400, test.text), ok(`{"request_id":"1","data":{"secret_id":"the-id"}}`))
			f.server.always("auth/approle/login", loginResponse("acc", 3600, 0))
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, test.kind)
			if strings.Contains(err.Error(), "used before") || strings.Contains(err.Error(), "hvs.") {
				t.Errorf("got %v, want an outage", err)
			}
			f.clock.SetTime(epoch.Add(2 * time.Second))
			_, err = f.Login(t.Context(), who)
			wantKind(t, err, "")
		})
	}
}

func TestAUsedUpSecretIDIsReported(t *testing.T) {
	const unwrapped = `{"request_id":"1","data":{"secret_id":"the-secret-id"}}`
	for name, test := range map[string]struct {
		unwrap, login says
		texts         []string
	}{
		"a wrapping token that somebody else has used": {
			errs(400, "wrapping token is not valid or does not exist"), loginResponse("acc", 3600, 0),
			[]string{"was used before", `store a new wrapping token`, `key "secretId" of Secret system/login`},
		},
		"a secret id without uses": {
			ok(unwrapped), errs(400, "invalid role or secret ID"),
			[]string{"used up (secret_id_num_uses)", "store a new wrapping token", "Secret system/login"},
		},
		"a wrapping token for something else": {
			ok(`{"request_id":"1","data":{"password":"x"}}`), loginResponse("acc", 3600, 0),
			[]string{"has no secret_id", "store a new wrapping token"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withWrappedAppRole)
			f.put("secretId", "hvs.wrapping-token")
			f.server.always(unwrapPath, test.unwrap)
			f.server.always("auth/approle/login", test.login)
			_, err := f.Login(t.Context(), who)
			wantKind(t, err, backend.LoginFailed)
			wantText(t, err, test.texts...)
			if strings.Contains(err.Error(), "the-secret-id") || strings.Contains(err.Error(), "hvs.wrapping") {
				t.Error("the message has a secret in it")
			}
		})
	}
}
