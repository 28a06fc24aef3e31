package secret

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

func TestSelect(t *testing.T) {
	type selection = v1alpha1.FieldSelection
	fields := data("username", "u", "password", "p", "ttl", "60")
	for _, c := range []struct {
		name, why      string
		source, target *selection
		keys, volatile []string
	}{
		{"no selection", "every field becomes a key",
			nil, nil, []string{"password", "ttl", "username"}, []string{"ttl"}},
		{"an empty selection", "an empty include keeps all", &selection{}, &selection{},
			[]string{"password", "ttl", "username"}, []string{"ttl"}},
		{"include", "only what it lists is kept", &selection{Include: []string{"username", "absent"}}, nil,
			[]string{"username"}, nil},
		{"exclude", "what it lists is omitted", &selection{Exclude: []string{"ttl"}}, nil,
			[]string{"password", "username"}, nil},
		{"include and exclude", "exclude applies after include",
			&selection{Include: []string{"username", "password"}, Exclude: []string{"password"}}, nil,
			[]string{"username"}, nil},
		{"a prefix", "a volatile field remains volatile under its key", &selection{Prefix: "DB_"}, nil,
			[]string{"DB_password", "DB_ttl", "DB_username"}, []string{"DB_ttl"}},
		{"include with a prefix", "include names fields, not keys",
			&selection{Include: []string{"username", "DB_password"}, Prefix: "DB_"}, nil, []string{"DB_username"}, nil},
		{"on the target", "it works as on the source", nil, &selection{Exclude: []string{"ttl"}, Prefix: "APP_"},
			[]string{"APP_password", "APP_username"}, nil},
		{"on both", "the target applies to the keys of the source",
			&selection{Prefix: "DB_"}, &selection{Include: []string{"DB_ttl", "username"}, Prefix: "APP_"},
			[]string{"APP_DB_ttl"}, []string{"APP_DB_ttl"}},
		{"nothing is left", "Check reports an empty Secret", &selection{Include: []string{"absent"}}, nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Select(c.source, c.target, "db", fields, []string{"ttl", "absent"})
			keys := slices.Sorted(maps.Keys(p.Data))
			if p.Source != "db" || !slices.Equal(keys, c.keys) || !slices.Equal(p.Volatile, c.volatile) {
				t.Errorf("because %s: got %+v, want keys %v, volatile %v", c.why, p, c.keys, c.volatile)
			}
		})
	}
	if p := Select(&selection{Prefix: "DB_"}, nil, "", fields, nil); string(p.Data["DB_password"]) != "p" {
		t.Errorf("a key has another field's value: %q", p.Data)
	}
}

func TestCollisionNamesTheKeyAndBothSources(t *testing.T) {
	db := Part{Source: "db", Data: data("username", marker, "password", marker)}
	kv := Part{Source: "kv", Data: data("url", marker)}
	for _, c := range []struct {
		name    string
		content Content
		want    []string // empty: no collision
	}{
		{"no source", nil, nil},
		{"different keys", Content{db, kv}, nil},
		{"keys that differ in case", Content{db, {Source: "kv", Data: data("Username", marker)}}, nil},
		{"the same key", Content{db, kv, {Source: "mq", Data: data("username", marker)}},
			[]string{`"db"`, `"mq"`, `"username"`, "fields.prefix"}},
		{"two of the same keys", Content{db, {Source: "mq", Data: data("username", marker, "password", marker)}},
			[]string{`"db"`, `"mq"`, `"password"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.content.Collision()
			if (err != nil) != (len(c.want) > 0) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %s", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), marker) {
				t.Errorf("the error contains a value: %q", err)
			}
		})
	}
}

func TestDataHasTheKeysOfAllParts(t *testing.T) {
	c := Content{{Source: "db", Data: data("a", "1")}, {Source: "kv", Data: data("b", "2", "c", "")}, {Source: "empty"}}
	if got := c.Data(); !reflect.DeepEqual(got, data("a", "1", "b", "2", "c", "")) {
		t.Errorf("got %q", got)
	}
}

func TestDigest(t *testing.T) {
	base := single("a", "1", "b", "2").Digest("salt")
	for range 20 {
		// A map is walked in another order each time.
		if base != single("b", "2", "a", "1").Digest("salt") {
			t.Fatal("the order of the keys matters")
		}
	}
	for name, other := range map[string]Content{
		"another value":             single("a", "1", "b", "3"),
		"another key":               single("a", "1", "c", "2"),
		"swapped values":            single("a", "2", "b", "1"),
		"one key less":              single("a", "1"),
		"one empty key more":        single("a", "1", "b", "2", "c", ""),
		"a key that looks like two": single("a", "1b2"),
		"no data":                   single(),
		"no part":                   nil,
		"another source":            {{Source: "db", Data: data("a", "1", "b", "2")}},
		"the same data in two":      {{Data: data("a", "1")}, {Source: "db", Data: data("b", "2")}},
		"a volatile value":          {{Data: data("a", "1", "b", "2"), Volatile: []string{"b"}}},
		"one empty part more":       {{Data: data("a", "1", "b", "2")}, {Source: "db"}},
	} {
		if other.Digest("salt") == base {
			t.Errorf("%s: the digest is the same", name)
		}
	}
	for _, salt := range []string{"", "pepper"} {
		if single("a", "1", "b", "2").Digest(salt) == base {
			t.Errorf("the digest is the same with salt %q", salt)
		}
	}
	if single("ab", "c").Digest("salt") == single("a", "bc").Digest("salt") {
		t.Error("the boundary between key and value does not count")
	}
	if strings.Contains(base, "=") || len(base) != 43 {
		t.Errorf("%q is not an unpadded SHA-256", base)
	}
}

func TestDigestOmitsVolatileKeys(t *testing.T) {
	content := func(ttl string) Content {
		return Content{{Source: "db", Data: data("password", "p", "ttl", ttl), Volatile: []string{"ttl"}}}
	}
	if content("60").Digest("salt") != content("59").Digest("salt") {
		t.Error("a countdown changes the digest, so every read would write the Secret")
	}
}

func TestDigestIgnoresTheOrderOfParts(t *testing.T) {
	a, b, c := Part{Source: "a", Data: data("x", "1")}, Part{Source: "b", Data: data("y", "2")}, Part{Source: "c"}
	want := Content{a, b, c}.Digest("salt")
	for _, other := range []Content{{c, b, a}, {b, a, c}, {a, c, b}} {
		if other.Digest("salt") != want {
			t.Errorf("the order %s, %s, %s changes the digest", other[0].Source, other[1].Source, other[2].Source)
		}
	}
}

func TestCombineIsTheDigestOfTheContent(t *testing.T) {
	content := Content{
		{Source: "db", Data: data("a", "1")},
		{Source: "kv", Data: data("b", "2", "ttl", "9"), Volatile: []string{"ttl"}},
	}
	parts := []PartDigest{{"kv", content[1].Digest("salt")}, {"db", content[0].Digest("salt")}}
	before := slices.Clone(parts)
	if Combine(parts) != content.Digest("salt") {
		t.Error("the digest of a Secret cannot be derived from the digests of its parts")
	}
	if !slices.Equal(parts, before) {
		t.Errorf("Combine sorted its argument: %v", parts)
	}
	// The digests are salted in each part, so that one part can be replaced without the data of the others.
	content[0].Data = data("a", "3")
	parts[1].Digest = content[0].Digest("salt")
	if Combine(parts) != content.Digest("salt") {
		t.Error("replacing the digest of one part does not give the digest of the new content")
	}
	if Combine([]PartDigest{{"ab", "c"}}) == Combine([]PartDigest{{"a", "bc"}}) {
		t.Error("the boundary between source and digest does not count")
	}
}

// Two contents have the same digest only if they are the same, wherever the boundaries are.
func FuzzDigest(f *testing.F) {
	f.Add("", "ab", "c", "db", "d", "", "", "a", "bc", "db", "d", "")
	f.Add("", "a", "b", "db", "c", "d", "", "a", "b\x00\x00\x00\x00\x00\x00\x00\x01c", "db", "c", "d")
	f.Add("a", "", "", "b", "a", "", "a", "a", "", "b", "", "")
	f.Fuzz(func(t *testing.T, s1, k1, v1, s2, k2, v2, s3, k3, v3, s4, k4, v4 string) {
		if s1 >= s2 || s3 >= s4 {
			return // sources have different names, and their order does not count
		}
		one, two := Content{{Source: s1, Data: data(k1, v1)}, {Source: s2, Data: data(k2, v2)}},
			Content{{Source: s3, Data: data(k3, v3)}, {Source: s4, Data: data(k4, v4)}}
		same := reflect.DeepEqual(one, two)
		if (one.Digest("salt") == two.Digest("salt")) != same {
			t.Errorf("%q and %q: same %v", one, two, same)
		}
	})
}
