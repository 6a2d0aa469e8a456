"""Who the daemon is to the cloud, and whether it can be for long."""

import time
from functools import partial

from caa.checking import Finding, Verdict, failed, in_thread, ok, warning
from caa.errors import CaaError, DeadlineExceededError
from caa.providers.alibabacloud.client import STS, Client
from caa.providers.alibabacloud.credentials import RoleSession
from caa.providers.alibabacloud.errors import ApiError, Kind, explained
from caa.providers.alibabacloud.preflight.questions import NO_RIGHT, Questions
from caa.providers.alibabacloud.preflight.subject import Subject
from caa.providers.alibabacloud.token import AUDIENCE, read_token


class CredentialChecks:
    def __init__(self, subject: Subject, questions: Questions) -> None:
        self._subject = subject
        self._settings = subject.settings
        self._questions = questions

    async def identity(self) -> Finding:
        """Never raises CaaError: whoever needs credentials judges by the finding."""
        return await self._questions.once("identity", self._ask_identity)

    async def are_bad(self) -> bool:
        return (await self.identity()).verdict is Verdict.FAILED

    async def _ask_identity(self) -> Finding:
        credentials = self._subject.credentials
        if isinstance(credentials, RoleSession):
            how = f"role {credentials.role_arn} by {credentials.provider_arn.rpartition('/')[2]} (RRSA)"
        else:
            how = f"access key {credentials.id}" + (" with a security token" if credentials.temporary else "")
        try:
            await credentials.ready()
            sts = Client(
                STS,
                endpoint=self._settings.sts_endpoint,
                region=self._settings.region,
                ca_file=self._settings.ca_file,
                credentials=credentials,
                threads=1,
            )
            try:
                caller = await self._questions.ask(sts, "GetCallerIdentity")
            finally:
                await sts.close()
        except ApiError as error:
            if error.kind in (Kind.DENIED, Kind.EXPIRED) and error.code not in NO_RIGHT:
                return failed(f"{how}: {explained(error)}")
            return warning(f"{how}; whose it is can't be told: {error}")
        except DeadlineExceededError as error:
            return warning(f"{how}; whose it is can't be told: {error}")
        except CaaError as error:
            return failed(str(error))
        left = credentials.left()
        ends = f", valid for {left / 60:.0f} min more" if left else ""
        who = "" if isinstance(credentials, RoleSession) else f", {caller.get('Arn', 'unknown')}"
        return ok(f"{how}{who}, account {caller.get('AccountId', 'unknown')}{ends}")

    async def token(self, session: RoleSession) -> Finding:
        token = await in_thread(partial(read_token, session.token_file))
        if token.expires is not None and token.expires < time.time():
            return failed(
                f"{session.token_file} expired {token.expiry}",
                "the kubelet replaces it in time: check that the file is no copy, and this node's clock",
            )
        seen = (
            f"of service account {token.service_account}, issuer {token.issuer or 'none'}, audience"
            f" {', '.join(token.audiences) or 'none'}, until {token.expiry}"
        )
        if AUDIENCE not in token.audiences:
            return warning(seen, f"the audience should be {AUDIENCE}, unless RAM's OIDC provider has another")
        return ok(seen)
