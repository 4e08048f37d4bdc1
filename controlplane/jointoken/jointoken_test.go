package jointoken

import (
	"encoding/pem"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestTokensAndTheirSecrets(t *testing.T) {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("any")})
	text, err := New(ca)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(text.String() + "\n"); err != nil || again != text {
		t.Errorf("%s is read as %v (%v)", text, again, err)
	}
	for _, wrong := range []string{"", "skep2...", strings.ToUpper(text.String()), text.String() + "x", text.String() + ".x", "skep1" + text.String()[5:],
		text.ID + "." + text.Secret, strings.Replace(text.String(), text.ID, "../../", 1)} {
		if got, err := Parse(wrong); err == nil {
			t.Errorf("%q is read as %v", wrong, got)
		}
	}
	now := time.Now()
	token := Token{ID: text.ID, Secret: text.Secret, Description: "d", Node: "n", Expires: now.Add(time.Hour).Truncate(time.Second), Authentication: true}
	read, err := Of(token.Object())
	if err != nil || !read.Expires.Equal(token.Expires) {
		t.Fatalf("%+v is read as %+v (%v)", token, read, err)
	}
	if read.Expires = token.Expires; read != token {
		t.Errorf("%+v is read as %+v", token, read)
	}
	if !token.Matches(text, now) || token.Matches(text, token.Expires) || !(Token{ID: text.ID, Secret: text.Secret, Authentication: true}).Matches(text, now.AddDate(100, 0, 0)) {
		t.Error("a token counts until it expires, and for ever without a time")
	}
	for what, change := range map[string]func(*corev1.Secret){
		"another type": func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, "another namespace": func(s *corev1.Secret) { s.Namespace = "default" },
		"another name": func(s *corev1.Secret) { s.Name = SecretPrefix + "zzzzzz" }, "no secret": func(s *corev1.Secret) { delete(s.Data, "token-secret") },
		"a short secret": func(s *corev1.Secret) { s.Data["token-secret"] = []byte("a") }, "a time that is none": func(s *corev1.Secret) { s.Data["expiration"] = nil },
	} {
		secret := token.Object()
		change(secret)
		if got, err := Of(secret); err == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}
