package vault

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSecretsAreRemovedFromTexts(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"plain words stay": {"unknown role: orders", "unknown role: orders"},
		"Vault's reason after the word token": {
			"error validating token: invalid audience (aud) claim",
			"error validating token, invalid audience (aud) claim",
		},
		"the session's token": {"bad session-secret here", "bad [token] here"},
		"a service token":     {"token hvs.CAESIJ-abc_DEF123 is bad", "token [token] is bad"},
		"a batch token":       {"hvb.AAAAAQ", "[token]"},
		"a token of OpenBao":  {"token s.iyNUhq8Ov4hIAx6snw5mB2nL.k2dF failed", "token [token] failed"},
		"a JWT": {
			"jwt eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln_-x is bad", "jwt [token] is bad",
		},
		"a statement's password": {
			`CREATE ROLE "v-x" WITH LOGIN PASSWORD 'it''s a secret' VALID`,
			`CREATE ROLE "v-x" WITH LOGIN PASSWORD [secret] VALID`,
		},
		"a statement cut in the middle": {"ALTER USER x PASSWORD 'abc", "ALTER USER x PASSWORD [secret]"},
		"a password of MySQL": {
			"CREATE USER 'x' IDENTIFIED BY 'abc';", "CREATE USER 'x' IDENTIFIED BY [secret];",
		},
		"a connection string": {
			"dial postgresql://admin:pa:ss@db:5432/x failed", "dial postgresql://admin:[secret]@db:5432/x failed",
		},
		"a connection string of words": {
			"host=db user=admin password=abc sslmode=disable", "host=db user=admin password=[secret] sslmode=disable",
		},
		"a variable":          {"DB_PASSWORD=hunter2 failed", "DB_PASSWORD=[secret] failed"},
		"a quoted variable":   {`export PGPASSWORD="hunter2"`, `export PGPASSWORD="[secret]"`},
		"a session token":     {"session_token=FwoGZXIvYXdz rejected", "session_token=[secret] rejected"},
		"a name with dashes":  {"X-Vault-Token: abcdef", "X-Vault-Token: [secret]"},
		"a password with /":   {"dial mysql://u:pa/ss@db:3306/x failed", "dial mysql://u:[secret]@db:3306/x failed"},
		"a password with / @": {"dial mysql://u:p/a@s@db/x failed", "dial mysql://u:[secret]@db/x failed"},
		"a bearer header":     {"Authorization: Bearer abc.d/gh was sent", "Authorization: Bearer [secret] was sent"},
		"a basic header":      {`"authorization":"Basic dXNlcjpw"`, `"authorization":"Basic [secret]"`},
		"another header":      {"Authorization: abcdef", "Authorization: [secret]"},
		"a bearer token":      {"sent bearer abcdef0123", "sent bearer [token]"},
		"an address stays":    {"dial https://vault:8200/v1/x failed", "dial https://vault:8200/v1/x failed"},
		"a setting stays":     {"token_type=service, token_num_uses=0", "token_type=service, token_num_uses=0"},
		"JSON":                {`body {"secret_key":"abc","x":1}`, `body {"secret_key":"[secret]","x":1}`},
		"spaces in quotes":    {"DB_PASSWORD='my secret x' failed", "DB_PASSWORD='[secret]' failed"},
		"a comma in quotes":   {`PGPASSWORD="a,b" psql`, `PGPASSWORD="[secret]" psql`},
		"a quote in quotes":   {`DB_PASSWORD="a\"b c" failed`, `DB_PASSWORD="[secret]" failed`},
		"a quote doubled":     {"MY_PWD='it''s a secret' failed", "MY_PWD='[secret]' failed"},
		"a quote of a shell":  {`DB_PASSWD='it'\''s it' failed`, "DB_PASSWD='[secret]' failed"},
		"a quoted part":       {"DB_PASSWORD='abc'def failed", "DB_PASSWORD='[secret]' failed"},
		"a value that is cut": {"DB_PASSWORD='my secret", "DB_PASSWORD='[secret]'"},
		"a query":             {"login?password=ab&cd failed", "login?password=[secret] failed"},
		"brackets":            {"(password=a)b];c, x", "(password=[secret] x"},
		"an escaped space":    {`host=db password=a\ b user=x`, "host=db password=[secret] user=x"},
		"a leading escape":    {`DB_PASSWORD=\$a b`, "DB_PASSWORD=[secret] b"},
		"a name with words behind": {
			`"secret_access_key": "a/b+c", x`, `"secret_access_key": "[secret]", x`,
		},
		"camel case":         {"secretAccessKey=a/b x", "secretAccessKey=[secret] x"},
		"a number":           {"PASSWORD2=abc x", "PASSWORD2=[secret] x"},
		"JSON and an escape": {`{"password":"a\"b, c","x":1}`, `{"password":"[secret]","x":1}`},
		"another JSON":       {`body {"password": "abc","x":1}`, `body {"password": "[secret]","x":1}`},
		"a quoted word":      {`PASSWORD "a b" VALID`, `PASSWORD [secret] VALID`},
		"no space":           {`IDENTIFIED BY'a b';`, `IDENTIFIED BY[secret];`},
		"dollar quotes":      {`DB_PASSWORD=$$a b$$ x`, `DB_PASSWORD=[secret] x`},
		"JSON in quotes": {
			`body "{\"password\":\"a\\\"b c\",\"x\":1}"`, `body "{\"password\":\"[secret]\",\"x\":1}"`,
		},
		"a host name stays": {"lookup vault-secrets: no such host", "lookup vault-secrets: no such host"},
		"lines become one":  {"a\n\tb\x00c\u2028d", "a b c d"},
		"a private key": {
			"x -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- y", "x [key] y",
		},
		"a lease id stays": {
			"failed to revoke entry: database/creds/orders/s0meLeaseId",
			"failed to revoke entry: database/creds/orders/s0meLeaseId",
		},
		"a code of PostgreSQL stays": {
			`role "v-app" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)`,
			`role "v-app" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)`,
		},
		"bytes that are not text": {"a\xff\xfeb", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := scrub(test.text, "session-secret"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestALongTextIsCut(t *testing.T) {
	if got := utf8.RuneCountInString(scrub(strings.Repeat("ü", 100_000))); got > maxTextRunes+1 {
		t.Errorf("%d runes are left", got)
	}
	if got := scrub(strings.Repeat("word ", 3500) + "hvs.tokenInTheTail"); strings.Contains(got, "tokenInTheTail") {
		t.Error("the tail is shown")
	}
}

func FuzzErrorText(f *testing.F) {
	for _, seed := range []string{
		"", "PASSWORD 'x", "://a:b@", "hvs.", "eyJ....", "-----BEGIN PRIVATE KEY-----", "password=\"", "\xff\n\x00",
		"1 error occurred:\n\t* x",
	} {
		f.Add(seed)
	}
	const secret = "hvs.Th1s_Is-The-Secret"
	f.Fuzz(func(t *testing.T, text string) {
		got := scrub(text+" "+secret+" "+text, secret)
		leaked := strings.Contains(got, "Th1s_Is-The-Secret")
		oneLine := utf8.ValidString(got) && !strings.ContainsAny(got, "\n\r\x00")
		if leaked || !oneLine || utf8.RuneCountInString(got) > maxTextRunes+1 {
			t.Errorf("%q became %q", text, got)
		}
		for _, item := range undecorated(text) {
			_ = scrub(item)
		}
	})
}
