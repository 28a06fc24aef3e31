package vault

import (
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

func TestDataBecomesTheBytesOfASecret(t *testing.T) {
	for name, test := range map[string]struct {
		response string
		want     map[string]string
	}{
		"strings stay as they are": {
			`{"data":{"a":"x\u0000\n\"é\\ <&>","b":" {\"not\": \"touched\"} ","c":""}}`,
			map[string]string{"a": "x\x00\n\"é\\ <&>", "b": ` {"not": "touched"} `, "c": ""},
		},
		"numbers keep their digits": {
			`{"data":{"big":12345678901234567890,"exact":1.10,"exp":1e400}}`,
			map[string]string{"big": "12345678901234567890", "exact": "1.10", "exp": "1e400"},
		},
		"the rest is JSON without white space": {
			`{"data":{"t":true,"o":{ "b": 1, "a": [1, 2.0] },"l":[ "x", null ]}}`,
			map[string]string{"t": "true", "o": `{"b":1,"a":[1,2.0]}`, "l": `["x",null]`},
		},
		"null fields are omitted": {
			`{"data":{"access_key":"a","session_token":null}}`, map[string]string{"access_key": "a"},
		},
		"Vault's escapes are undone": {
			`{"data":{"o":{"url":"a\u0026b\u003cc\u003E","kept":"\u00e9\n\\u0026\\\u0026"}}}`,
			map[string]string{"o": `{"url":"a&b<c>","kept":"\u00e9\n\\u0026\\&"}`},
		},
		"version 2 of KV is unwrapped": {
			`{"request_id":"1","lease_id":"","data":{"data":{"a":"b","data":"c"},"metadata":{"version":2,` +
				`"created_time":"x","destroyed":false}}}`,
			map[string]string{"a": "b", "data": "c"},
		},
		"version 1 with the keys data and metadata is not": {
			`{"data":{"data":{"a":"b"},"metadata":{"owner":"me"}}}`,
			map[string]string{"data": `{"a":"b"}`, "metadata": `{"owner":"me"}`},
		},
		"version 1 with a version of its own is not": {
			`{"data":{"data":{"a":"b"},"metadata":{"version":"2","created_time":"x"}}}`,
			map[string]string{"data": `{"a":"b"}`, "metadata": `{"version":"2","created_time":"x"}`},
		},
		"a lease is never KV": {
			`{"lease_id":"p/a","data":{"data":{"a":"b"},"metadata":{"version":2,"created_time":"x"}}}`,
			map[string]string{"data": `{"a":"b"}`, "metadata": `{"version":2,"created_time":"x"}`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, ok := rawResponse{status: http.StatusOK, body: []byte(test.response)}.parse()
			if !ok {
				t.Fatal("the response is not accepted as Vault's")
			}
			req := &v1alpha1.VaultRequest{Path: "p"}
			fields, err := secretFields(a, req)
			wantNil(t, err)
			data, err := secretData(fields, req)
			wantNil(t, err)
			got := map[string]string{}
			for key, value := range data {
				got[key] = string(value)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestADurationWithoutAnIDIsNoLease(t *testing.T) {
	f := newFixture(t)
	f.server.always("kv/orders",
		ok(`{"request_id":"1","lease_id":"","lease_duration":2764800,"renewable":false,"data":{"a":"b"}}`))
	got, err := f.Issue(t.Context(), at, source("kv/orders"))
	wantKind(t, err, "")
	if got.LeaseID != "" || string(got.Data["a"]) != "b" {
		t.Errorf("got lease %q and data of %d keys", got.LeaseID, len(got.Data))
	}
}

func TestADestroyedVersionWith200IsNotFound(t *testing.T) {
	f := newFixture(t)
	f.server.always("kv/data/orders",
		ok(`{"request_id":"1","data":{"data":null,"metadata":{"version":1,"created_time":"x","destroyed":true}}}`))
	_, err := f.Issue(t.Context(), at, source("kv/data/orders"))
	wantKind(t, err, backend.NotFound)
	wantText(t, err, "destroyed")
}

func TestReadingDurations(t *testing.T) {
	for in, want := range map[string]string{
		"3600": "1h0m0s", "0": "0s", "-5": "0s", "": "0s", "x": "0s", "1e30": "876000h0m0s",
	} {
		if got := seconds(json.Number(in)).String(); got != want {
			t.Errorf("%q seconds: got %s, want %s", in, got, want)
		}
	}
}
