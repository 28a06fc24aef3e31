//go:build integration

package testbed_test

import (
	"context"
	"testing"
	"time"

	"github.com/leasekeeper/leasekeeper/internal/testbed"
)

func TestMariaDBRejectsDroppedUsers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := must(testbed.StartMariaDB(ctx))(t)
	defer func() { check(t, m.Close()) }()
	check(t, m.Exec(ctx, `CREATE USER 'app'@'%' IDENTIFIED BY 'secret'`))
	check(t, m.Login(ctx, "app", "secret"))
	check(t, m.Exec(ctx, `DROP USER 'app'@'%'`))
	if m.Login(ctx, "app", "secret") == nil {
		t.Error("a dropped user can log in")
	}
}

func TestLDAPChecksPasswords(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l := must(testbed.StartLDAP(ctx, testbed.LDAPOptions{}))(t)
	defer func() { check(t, l.Close()) }()
	check(t, l.AddUser("app", "secret"))
	check(t, l.Login(l.UserDN("app"), "secret"))
	if l.Login(l.UserDN("app"), "other") == nil {
		t.Error("another password is accepted")
	}
}
