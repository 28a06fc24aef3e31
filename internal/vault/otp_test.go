package vault

import "testing"

func TestTheLoginOfAOneTimePasswordIsForeign(t *testing.T) {
	f := newFixture(t)
	const path = "ssh/creds/orders"
	for name, test := range map[string]struct {
		data string
		want bool
	}{
		"a one-time password": {`"key_type":"otp","key":"x","ip":"10.0.0.1","username":"deploy"`, true},
		"a user":              {`"username":"v-orders"`, false},
		"another key type":    {`"key_type":"ca","ip":"10.0.0.1","username":"deploy"`, false},
	} {
		f.server.always(path, ok(`{"request_id":"1","lease_id":"ssh/creds/orders/a","lease_duration":60,"data":{`+
			test.data+`}}`))
		got, err := f.Issue(t.Context(), at, source(path))
		wantNil(t, err)
		if got.ForeignUser != test.want {
			t.Errorf("%s: foreign is %t", name, got.ForeignUser)
		}
	}
}
